//go:build integration && linux

package proxies

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/seed-829c304d/wsshard/internal/realworld/program"
)

// This file answers: on which machines do the tests run? Two network namespaces, joined by a cable. The tests are in the one,
// with three addresses of each family; proxies and web server in the other, where names mean something. Nothing of the
// machine's own network is touched.

// insideOf names the environment variable that holds the servers' namespace: it is set in the process that tests.
const insideOf = "WSSHARD_PROXIES_SERVERS"

const (
	serverIPv4, serverIPv6 = "10.77.0.1", "fd77::1"
	feedIPv4, feedIPv6     = "feed4.test", "feed6.test" // known in the servers' namespace only
)

var (
	clientsIPv4 = []string{"10.77.0.11", "10.77.0.12", "10.77.0.13"} // the first is what the system takes by itself
	clientsIPv6 = []string{"fd77::11", "fd77::12", "fd77::13"}
)

func TestMain(m *testing.M) {
	if os.Getenv(insideOf) != "" {
		os.Exit(m.Run())
	}
	code, err := outside()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// outside makes the namespaces, runs this program again inside, and takes them down.
func outside() (code int, err error) {
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	if os.Geteuid() != 0 {
		return inner("sudo", append([]string{"-n", "-E", self}, os.Args[1:]...)...)
	}
	if err := program.Find("danted", "microsocks", "tinyproxy", "squid", "nginx", "stunnel", "htpasswd", "ip", "ss", "unshare"); err != nil {
		return 1, err
	}
	// What a proxy that is killed leaves behind becomes a child of ours, to be buried at the end.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return 1, err
	}
	clients, servers := fmt.Sprint("wsc", os.Getpid()), fmt.Sprint("wss", os.Getpid())
	defer takeDown(clients, servers)
	if err := setUp(clients, servers); err != nil {
		return 1, err
	}
	os.Setenv(insideOf, servers)
	return inner("ip", append([]string{"netns", "exec", clients, self}, os.Args[1:]...)...)
}

func inner(name string, args ...string) (code int, err error) {
	cmd := exec.Command(name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	// Whoever wants an end of it ends the tests; what was set up is then taken down all the same.
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	ended := make(chan struct{})
	defer close(ended)
	go func() {
		select {
		case s := <-signals:
			cmd.Process.Signal(s)
		case <-ended:
		}
	}()
	cmd.Wait()
	if code = cmd.ProcessState.ExitCode(); code < 0 {
		return 1, fmt.Errorf("the tests ended by %v", cmd.ProcessState)
	}
	return code, nil
}

func setUp(clients, servers string) error {
	ip := func(format string, args ...any) error {
		line := strings.Fields(fmt.Sprintf(format, args...))
		if out, err := exec.Command("ip", line...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(line, " "), err, out)
		}
		return nil
	}
	var failed error
	do := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	for _, ns := range []string{clients, servers} {
		do(ip("netns add %s", ns))
		do(ip("-n %s link set lo up", ns))
	}
	do(ip("-n %s link add cable type veth peer name cable netns %s", clients, servers))
	do(ip("-n %s addr add %s/24 dev cable", servers, serverIPv4))
	do(ip("-n %s addr add %s/64 dev cable nodad", servers, serverIPv6))
	for i := range clientsIPv4 {
		do(ip("-n %s addr add %s/24 dev cable", clients, clientsIPv4[i]))
		lifetime := "forever"
		if i > 0 {
			lifetime = "0" // not taken unless asked for
		}
		do(ip("-n %s addr add %s/64 dev cable nodad preferred_lft %s", clients, clientsIPv6[i], lifetime))
	}
	do(ip("-n %s link set cable up", clients))
	do(ip("-n %s link set cable up", servers))
	do(writeEtc(servers))
	return failed
}

// writeEtc gives the servers' namespace names of its own, and a user for the one proxy that asks the system for passwords.
func writeEtc(servers string) error {
	dir := filepath.Join("/etc/netns", servers)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	hash, err := exec.Command("htpasswd", "-nbB", "-C", "4", user, password).Output()
	if err != nil {
		return fmt.Errorf("htpasswd: %w", err)
	}
	users, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"hosts":  fmt.Sprintf("127.0.0.1 localhost\n%s %s\n%s %s\n", serverIPv4, feedIPv4, serverIPv6, feedIPv6),
		"passwd": string(users) + user + ":x:19777:19777::/nonexistent:/usr/sbin/nologin\n",
		"shadow": strings.TrimSpace(string(hash)) + ":19000:0:99999:7:::\n",
	} {
		mode := os.FileMode(0o644)
		if name == "shadow" {
			mode = 0o600
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			return err
		}
	}
	return nil
}

// takeDown ends what runs in the namespaces, and removes them.
func takeDown(namespaces ...string) {
	for _, ns := range namespaces {
		out, _ := exec.Command("ip", "netns", "pids", ns).Output()
		for _, field := range strings.Fields(string(out)) {
			if pid, err := strconv.Atoi(field); err == nil {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		exec.Command("ip", "netns", "del", ns).Run()
		os.RemoveAll(filepath.Join("/etc/netns", ns))
	}
	os.Remove("/etc/netns") // if it is empty
	for err := error(nil); err == nil || err == syscall.EINTR; {
		_, err = syscall.Wait4(-1, nil, 0, nil)
	}
}

// listenThere listens in the servers' namespace.
func listenThere(t *testing.T, addr string) net.Listener {
	t.Helper()
	l, err := program.ListenIn(filepath.Join("/var/run/netns", os.Getenv(insideOf)), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// there is a command in the servers' namespace.
func there(name string, args ...string) *exec.Cmd {
	return exec.Command("ip", append([]string{"netns", "exec", os.Getenv(insideOf), name}, args...)...)
}
