//go:build linux

package main

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"google.golang.org/grpc"
)

// gates are the listeners that a server serves. They are closed before the server is stopped:
// a server that stops breaks off the connections that it has just accepted, and clients fail
// calls for that. Where the service manager keeps the socket, the next process accepts those
// that come later.
type gates struct {
	server  *grpc.Server
	serving sync.WaitGroup // goroutines that accept

	mu     sync.Mutex
	closed bool
	all    []*gate
}

// serve serves a listener in the background until the gates are closed. It calls ended where
// that ends before.
func (g *gates) serve(l net.Listener, ended func(error)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		_ = l.Close() // nothing came in yet
		return
	}
	one := &gate{Listener: l}
	g.all = append(g.all, one)
	g.serving.Go(func() {
		if err := g.server.Serve(one); err != nil && !one.closing.Load() {
			ended(err)
		}
	})
}

// stop ends the calls under way, or breaks them off when they take too long.
func (g *gates) stop() {
	late := time.AfterFunc(grace, func() {
		log.L.Warnf("calls have not ended after %v: breaking them off", grace)
		g.server.Stop()
	})
	defer late.Stop()
	g.close()
	g.server.GracefulStop()
}

// close accepts no more connections, and returns when the server has taken over all that
// were accepted.
func (g *gates) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, one := range g.all {
		one.closing.Store(true)
		_ = one.Close() // it was only read from; where its socket stays, the next start takes its place
	}
	g.serving.Wait()
	for _, one := range g.all {
		one.entering.Wait()
	}
}

// gate is a listener that knows which connections were accepted, and not yet taken over.
type gate struct {
	net.Listener
	closing  atomic.Bool
	entering sync.WaitGroup
}

func (g *gate) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	g.entering.Add(1)
	return &entrant{Conn: c, enter: sync.OnceFunc(g.entering.Done)}, nil
}

// entrant is a connection that the server takes over by setting a deadline, which it does
// after it has looked whether it is to stop.
type entrant struct {
	net.Conn
	enter func()
}

func (e *entrant) SetDeadline(t time.Time) error {
	defer e.enter()
	return e.Conn.SetDeadline(t)
}

func (e *entrant) Close() error {
	defer e.enter()
	return e.Conn.Close()
}
