package presto

import (
	"container/list"
	"sync"
)

// lru is a bounded map that drops what was not used for longest. Safe for
// concurrent use.
type lru[K comparable, V any] struct {
	mu    sync.Mutex
	cap   int
	m     map[K]*list.Element
	order list.List
	drop  func(K, V) // called without the lock, may be nil
}

type lruEntry[K comparable, V any] struct {
	k K
	v V
}

func newLRU[K comparable, V any](capacity int, drop func(K, V)) *lru[K, V] {
	return &lru[K, V]{cap: capacity, m: make(map[K]*list.Element), drop: drop}
}

func (c *lru[K, V]) get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.m[k]
	if e == nil {
		var zero V
		return zero, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*lruEntry[K, V]).v, true
}

func (c *lru[K, V]) put(k K, v V) {
	c.mu.Lock()
	if e := c.m[k]; e != nil {
		old := e.Value.(*lruEntry[K, V]).v
		e.Value.(*lruEntry[K, V]).v = v
		c.order.MoveToFront(e)
		c.mu.Unlock()
		c.dropped(k, old)
		return
	}
	c.m[k] = c.order.PushFront(&lruEntry[K, V]{k, v})
	var out *lruEntry[K, V]
	if len(c.m) > c.cap {
		last := c.order.Back()
		out = c.order.Remove(last).(*lruEntry[K, V])
		delete(c.m, out.k)
	}
	c.mu.Unlock()
	if out != nil {
		c.dropped(out.k, out.v)
	}
}

func (c *lru[K, V]) remove(k K) {
	c.mu.Lock()
	e := c.m[k]
	if e == nil {
		c.mu.Unlock()
		return
	}
	v := c.order.Remove(e).(*lruEntry[K, V]).v
	delete(c.m, k)
	c.mu.Unlock()
	c.dropped(k, v)
}

func (c *lru[K, V]) dropped(k K, v V) {
	if c.drop != nil {
		c.drop(k, v)
	}
}

// clear drops everything.
func (c *lru[K, V]) clear() {
	c.mu.Lock()
	all := c.m
	c.m = make(map[K]*list.Element)
	c.order.Init()
	c.mu.Unlock()
	for k, e := range all {
		c.dropped(k, e.Value.(*lruEntry[K, V]).v)
	}
}
