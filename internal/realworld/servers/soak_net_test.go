//go:build integration && linux

package servers

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: on which machines does the soak run? Two network namespaces, joined by a cable. Nobody but us is in them,
// and nothing of the machine's own network is touched. They have no names: they last as long as a process is in them.

const (
	webIPv4, webIPv6 = "10.77.0.1", "fd77::1" // web server and NATS
	proxyIPv4        = "10.77.0.2"
)

var (
	clientsIPv4 = []string{"10.77.0.11", "10.77.0.12", "10.77.0.13", "10.77.0.14"}
	clientsIPv6 = []string{"fd77::11", "fd77::12", "fd77::13", "fd77::14"}
)

// machine is a namespace, held by a process that does nothing else.
type machine struct {
	t    *testing.T
	held *exec.Cmd
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	held := exec.Command("sleep", "infinity")
	held.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	if err := held.Start(); err != nil {
		t.Fatalf("a network namespace (it needs root): %v", err)
	}
	t.Cleanup(func() {
		held.Process.Kill()
		held.Wait()
	})
	m := &machine{t, held}
	m.must("ip", "link", "set", "lo", "up")
	return m
}

func (m *machine) path() string { return fmt.Sprintf("/proc/%d/ns/net", m.held.Process.Pid) }

// command runs on the machine.
func (m *machine) command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + m.path(), name}, args...)...)
}

// run is command for what ends soon.
func (m *machine) run(name string, args ...string) (out string, err error) {
	b, err := m.command(name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(b))
	}
	return string(b), err
}

func (m *machine) must(name string, args ...string) {
	m.t.Helper()
	if _, err := m.run(name, args...); err != nil {
		m.t.Fatal(err)
	}
}

// dial connects from the machine.
func (m *machine) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return program.DialIn(ctx, m.path(), network, addr)
}

// wire makes both machines and joins them.
func wire(t *testing.T) (clients, servers *machine) {
	t.Helper()
	clients, servers = newMachine(t), newMachine(t)
	clients.must("ip", "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", fmt.Sprint(servers.held.Process.Pid))
	for m, addrs := range map[*machine][]string{
		servers: {webIPv4, proxyIPv4, webIPv6},
		clients: append(append([]string{}, clientsIPv4...), clientsIPv6...),
	} {
		for _, addr := range addrs {
			m.addAddress(addr)
		}
		m.must("ip", "link", "set", "cable", "up")
	}
	return clients, servers
}

func (m *machine) addAddress(addr string) {
	m.t.Helper()
	if strings.Contains(addr, ":") {
		m.must("ip", "addr", "replace", addr+"/64", "dev", "cable", "nodad")
	} else {
		m.must("ip", "addr", "replace", addr+"/24", "dev", "cable")
	}
}

// filter is a rule of a machine's firewall, until it is undone.
func (m *machine) filter(addr string, rule ...string) (undo func()) {
	tables := "iptables"
	if strings.Contains(addr, ":") {
		tables = "ip6tables"
	}
	change := func(how string) {
		args := append([]string{"-w", how}, rule...)
		if _, err := m.run(tables, args...); err != nil {
			m.t.Error(err)
		}
	}
	change("-I")
	return func() { change("-D") }
}
