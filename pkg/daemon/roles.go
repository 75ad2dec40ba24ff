package daemon

import (
	"context"

	"github.com/intermezzofs/intermezzo/pkg/config"
	"github.com/intermezzofs/intermezzo/pkg/server"
)

// newRole makes what this host is for the worker's fileset.
func (d *Daemon) newRole(w *worker) role {
	if w.job.role == config.RoleServer {
		return &serverRole{w: w, d: d, server: server.New(server.Options{
			Fileset: w.job.fileset.Name, UUID: w.job.fileset.UUID, SaveUUID: w.saveUUID,
			Name: d.authority.Config().Sysid.Name, Presto: w.presto, Log: d.log,
		})}
	}
	return d.newClientRole(w)
}

// serverRole serves the fileset to those it was granted to.
type serverRole struct {
	w      *worker
	d      *Daemon
	server *server.Server
}

func (s *serverRole) run(ctx context.Context) error {
	name := s.w.job.fileset.Name
	s.d.host.Mount(name, s.server)
	defer s.d.host.Unmount(name)
	// A server is always in step with itself.
	s.d.inStep()
	return s.server.Run(ctx)
}

func (s *serverRole) report(r *FilesetReport) {
	err := s.server.Err()
	r.Connected = err == nil
	if err != nil {
		r.Error = err.Error()
	}
	// All filesets of a host share its connections.
	r.BytesIn, r.BytesOut = s.d.host.Counter().In(), s.d.host.Counter().Out()
	f := s.d.authority.Config().Fileset(r.Name)
	if f == nil {
		return
	}
	for _, granted := range f.Replicators {
		p := PeerReport{Name: granted.Name, Rights: string(granted.Rights)}
		for _, here := range s.d.host.Peers() {
			if here.Fileset == r.Name && here.Name == granted.Name {
				p.Connected, p.Address, p.Since = true, here.Address, &here.Since
			}
		}
		r.Peers = append(r.Peers, p)
	}
}
