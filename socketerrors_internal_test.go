package wsshard

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
)

// TestWindowsSocketErrors: each number that Windows returns speaks against one thing, wrapped as package net wraps it, and is
// no more than a number elsewhere.
func TestWindowsSocketErrors(t *testing.T) {
	const ours, down, broken = socketOurs, socketDown, socketBreak
	want := map[syscall.Errno]socketFault{ // https://learn.microsoft.com/windows/win32/winsock/windows-sockets-error-codes-2
		10013: ours, 10024: ours, 10047: ours, 10048: ours, 10049: ours, 10055: ours, 5: ours, 1314: ours,
		10050: down, 10051: down, 10060: down, 10061: down, 10064: down, 10065: down, 121: down, 1225: down, 1231: down, 1232: down, 1234: down,
		10052: broken, 10053: broken, 10054: broken, 10058: broken, 10101: broken, 64: broken, 109: broken, 232: broken, 1236: broken,
	}
	n := 0
	for _, list := range windowsErrors {
		n += len(list)
	}
	if n != len(want) {
		t.Errorf("%d numbers in the table, %d here", n, len(want))
	}
	for no, is := range want {
		wrapped := fmt.Errorf("dial: %w", &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connectex", no)})
		for _, fault := range []socketFault{ours, down, broken} {
			if got := isSocketErrorOn("windows", wrapped, fault); got != (fault == is) {
				t.Errorf("%d speaks against %d: %v", int(no), fault, got)
			}
			if no > 10000 && isSocketErrorOn("linux", wrapped, fault) {
				t.Errorf("%d speaks against %d where there is no Winsock", int(no), fault)
			}
		}
	}
	for _, err := range []error{nil, errors.New("no number"), syscall.Errno(10035), syscall.Errno(0)} { // 10035: WSAEWOULDBLOCK
		for _, fault := range []socketFault{ours, down, broken} {
			if isSocketErrorOn("windows", err, fault) {
				t.Errorf("%v speaks against %d", err, fault)
			}
		}
	}
}

// TestSocketErrorsByName: what syscall has names for means the same everywhere, and one thing only.
func TestSocketErrorsByName(t *testing.T) {
	for fault, errs := range unixErrors {
		for _, err := range errs {
			for other := range unixErrors {
				for _, goos := range []string{"linux", "windows", "darwin", "freebsd"} {
					if got := isSocketErrorOn(goos, os.NewSyscallError("connect", err), other); got != (other == fault) {
						t.Errorf("%v on %s speaks against %d: %v", err, goos, other, got)
					}
				}
			}
		}
	}
	for _, err := range []error{syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTDOWN, syscall.ECONNABORTED, net.ErrClosed} {
		if judgeHost(&DialError{Err: err}) != hostDown {
			t.Errorf("%v does not speak against the host", err)
		}
	}
	if !slices.Equal([]outcome{judgeHost(syscall.EMFILE), judgeHost(syscall.EADDRNOTAVAIL)}, []outcome{hostUnknown, hostUnknown}) {
		t.Error("what is wrong here speaks against the host")
	}
}
