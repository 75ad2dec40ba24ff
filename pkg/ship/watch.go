package ship

import "sync"

// Watch is a value that others wait to change. The zero Watch holds the zero T.
type Watch[T any] struct {
	mu    sync.Mutex
	value T
	next  chan struct{}
}

// Get returns the value, and a channel that is closed at its next change.
func (w *Watch[T]) Get() (T, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next == nil {
		w.next = make(chan struct{})
	}
	return w.value, w.next
}

// Now returns the value.
func (w *Watch[T]) Now() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.value
}

// Update changes the value and wakes who waits.
func (w *Watch[T]) Update(change func(*T)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.value)
	if w.next != nil {
		close(w.next)
		w.next = nil
	}
}
