# Targets: build install uninstall demo test bench lint fuzz man clean. "make help" explains them.

DESTDIR  ?=
PREFIX   ?= /usr
SBINDIR  ?= $(PREFIX)/sbin
BINDIR   ?= $(PREFIX)/bin
MANDIR   ?= $(PREFIX)/share/man
# mount(8) and fsck(8) look for their helpers in /sbin only.
HELPERDIR ?= /sbin
UNITDIR  ?= $(PREFIX)/lib/systemd/system
BASHDIR  ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR   ?= $(PREFIX)/share/zsh/site-functions
FISHDIR  ?= $(PREFIX)/share/fish/vendor_completions.d

GO       ?= go
BUILDFLAGS ?= -trimpath
FUZZTIME ?= 10s
TESTFLAGS ?=
export CGO_ENABLED = 0

TOOLS := $(notdir $(patsubst %/main.go,%,$(wildcard cmd/*/main.go)))
USERTOOLS := $(filter hoard,$(TOOLS))
ROOTTOOLS := $(filter-out hoard,$(TOOLS))

.PHONY: help build install uninstall demo test bench lint fuzz man clean

help:
	@echo 'make build     static binaries of all tools into bin/'
	@echo 'make install   tools, mount helpers, man pages, completions; DESTDIR and PREFIX are respected'
	@echo 'make demo      two hosts on this machine replicate a real tree (root, FUSE)'
	@echo 'make test      all tests, with real mounts; those that need root and FUSE say so when they are skipped'
	@echo 'make bench     speed against rsync and tar, as ratios'
	@echo 'make lint      gofmt, go vet, man pages'
	@echo 'make fuzz      every fuzz target for FUZZTIME ($(FUZZTIME))'

build:
	@mkdir -p bin
	$(GO) build $(BUILDFLAGS) -o bin/ ./cmd/...

install: build
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(HELPERDIR)
	install -m 0755 $(addprefix bin/,$(ROOTTOOLS)) $(DESTDIR)$(SBINDIR)
ifneq ($(USERTOOLS),)
	install -d $(DESTDIR)$(BINDIR)
	install -m 0755 $(addprefix bin/,$(USERTOOLS)) $(DESTDIR)$(BINDIR)
endif
	ln -sf $(SBINDIR)/lento $(DESTDIR)$(HELPERDIR)/mount.intermezzo
	ln -sf $(SBINDIR)/lento $(DESTDIR)$(HELPERDIR)/umount.fuse.intermezzo
	ln -sf $(SBINDIR)/mkizofs $(DESTDIR)$(HELPERDIR)/mkfs.intermezzo
	install -d $(DESTDIR)$(UNITDIR)
	sed 's|@SBINDIR@|$(SBINDIR)|' etc/lento.service >$(DESTDIR)$(UNITDIR)/lento.service
	for p in man/*.[578]; do d=$(DESTDIR)$(MANDIR)/man$${p##*.}; install -d $$d && install -m 0644 $$p $$d || exit 1; done
	install -d $(DESTDIR)$(BASHDIR) $(DESTDIR)$(ZSHDIR) $(DESTDIR)$(FISHDIR)
	for t in $(TOOLS); do \
		bin/$$t completion bash >$(DESTDIR)$(BASHDIR)/$$t && \
		bin/$$t completion zsh >$(DESTDIR)$(ZSHDIR)/_$$t && \
		bin/$$t completion fish >$(DESTDIR)$(FISHDIR)/$$t.fish || exit 1; done

uninstall:
	rm -f $(addprefix $(DESTDIR)$(SBINDIR)/,$(ROOTTOOLS)) $(addprefix $(DESTDIR)$(BINDIR)/,$(USERTOOLS))
	rm -f $(addprefix $(DESTDIR)$(HELPERDIR)/,mount.intermezzo umount.fuse.intermezzo mkfs.intermezzo)
	rm -f $(DESTDIR)$(UNITDIR)/lento.service
	for p in man/*.[578]; do rm -f $(DESTDIR)$(MANDIR)/man$${p##*.}/$${p##*/}; done
	for t in $(TOOLS); do rm -f $(DESTDIR)$(BASHDIR)/$$t $(DESTDIR)$(ZSHDIR)/_$$t $(DESTDIR)$(FISHDIR)/$$t.fish; done

demo: build
	$(GO) run ./test/demo

test: build
	$(GO) test -timeout 40m $(TESTFLAGS) ./...

bench: build
	$(GO) run ./test/bench

lint:
	@bad=$$(gofmt -l cmd pkg test); if [ -n "$$bad" ]; then echo "not gofmt'ed:"; echo "$$bad"; exit 1; fi
	$(GO) vet ./...
	@$(MAKE) --no-print-directory man

man:
	@if command -v mandoc >/dev/null; then mandoc -T lint -W warning man/*.[578]; \
	else echo 'mandoc is not installed: man pages are not checked'; fi

fuzz:
	@$(GO) list ./... | while read -r pkg; do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done; \
	done

clean:
	rm -rf bin
