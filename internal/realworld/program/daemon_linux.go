package program

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// This file answers: how is a program that listens started, killed, and started again?

// Daemon is a program that listens. It may be killed and started again.
type Daemon struct {
	Name    string
	Listens string // host:port, where it accepts connections once it is up
	// Command makes the command, anew for each start.
	Command func() *exec.Cmd
	// Dial connects to Listens, maybe from another network namespace. nil: from here.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu  sync.Mutex // protects following field
	cmd *exec.Cmd  // nil: it is not running
}

// Launch starts the program, and kills it with the test.
func (d *Daemon) Launch(t testing.TB) {
	t.Helper()
	t.Cleanup(func() { d.End(syscall.SIGKILL) })
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
}

// Start waits until the program accepts connections. A program that does not is killed.
func (d *Daemon) Start() error { return d.start(Limit) }

func (d *Daemon) start(limit time.Duration) error {
	cmd, out := d.Command(), &output{}
	mortal(cmd)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%s: %w", d.Name, err)
	}
	d.mu.Lock()
	d.cmd = cmd
	d.mu.Unlock()
	dial := d.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		if c, err := dial(ctx, "tcp", d.Listens); err == nil {
			c.Close()
			return nil
		}
		if ctx.Err() != nil {
			d.End(syscall.SIGKILL)
			return fmt.Errorf("%s does not listen on %s:\n%s", d.Name, d.Listens, out)
		}
	}
}

// Signal goes to the program and what it has started.
func (d *Daemon) Signal(sig syscall.Signal) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		syscall.Kill(-d.cmd.Process.Pid, sig)
	}
}

// End signals the program and waits until it is gone. What it has started is killed then.
func (d *Daemon) End(sig syscall.Signal) {
	d.Signal(sig)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd != nil {
		group := d.cmd.Process.Pid
		d.cmd.Process.Wait() // not d.cmd.Wait: a helper that lives on may hold what the program wrote to
		syscall.Kill(-group, syscall.SIGKILL)
		d.cmd.Wait()
		d.cmd = nil
	}
}

// output is what a program has said, to be shown when it fails. It may be read while the program goes on.
type output struct {
	mu  sync.Mutex // protects following field
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}
