package wsshard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/seed-829c304d/wsshard/internal/gate"
)

// What the breaker learns from each way to fail: the host is up, down, or it was us.
func TestJudgeHostByError(t *testing.T) {
	op := func(op string, err error) error {
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, err)}
	}
	for _, c := range []struct {
		err  error
		want gate.Verdict
	}{
		{nil, gate.Up},
		{&HandshakeError{StatusCode: 101}, gate.Neither},
		{&HandshakeError{StatusCode: 200}, gate.Neither},
		{&HandshakeError{StatusCode: 302}, gate.Neither},
		{&HandshakeError{StatusCode: 401}, gate.NotYou},
		{&HandshakeError{StatusCode: 429}, gate.TooMany},
		{&HandshakeError{}, gate.Neither},
		{&HandshakeError{StatusCode: 403}, gate.NotYou},
		{&HandshakeError{StatusCode: 407}, gate.NotYou},
		{&HandshakeError{StatusCode: 418}, gate.Banned},
		{&HandshakeError{StatusCode: 404}, gate.Neither},
		{&HandshakeError{StatusCode: 408}, gate.Failed},
		{&HandshakeError{StatusCode: 425}, gate.Failed},
		{&HandshakeError{StatusCode: 500}, gate.Failed},
		{&HandshakeError{StatusCode: 503}, gate.Failed},
		{op("connect", syscall.ECONNREFUSED), gate.Failed},
		{op("connect", syscall.EHOSTUNREACH), gate.Failed},
		{op("connect", syscall.ENETUNREACH), gate.Failed},
		{op("connect", syscall.ETIMEDOUT), gate.Failed},
		{op("read", syscall.ECONNRESET), gate.Failed},
		{op("write", syscall.EPIPE), gate.Failed},
		{io.ErrUnexpectedEOF, gate.Failed},
		{fmt.Errorf("not connected: %w", context.DeadlineExceeded), gate.Failed},
		{os.ErrDeadlineExceeded, gate.Failed},
		{&tlsError{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}, gate.Failed},
		{&tlsError{tls.RecordHeaderError{}}, gate.Failed},
		{&tlsError{errors.New("tls: whatever")}, gate.Failed},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(116)}, gate.Failed}, // "certificate required", after the handshake
		{op("bind", syscall.EADDRNOTAVAIL), gate.Unknown},
		{op("socket", syscall.EMFILE), gate.Unknown},
		{op("bind", syscall.EADDRINUSE), gate.Unknown},
		{context.Canceled, gate.Unknown},
		{ErrStopped, gate.Unknown},
		{ErrInvalidURL, gate.Unknown},
		{ErrInvalidHeader, gate.Unknown},
		{errors.New("the handler's own"), gate.Unknown},
		{&PanicError{}, gate.Unknown},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, gate.Failed},
		{&theirDialError{errors.New("the application's own")}, gate.Failed},
		{&theirDialError{context.Canceled}, gate.Unknown},
		{&theirDialError{op("bind", syscall.EADDRNOTAVAIL)}, gate.Unknown},
		{&theirDialError{&net.AddrError{Err: "no suitable address found"}}, gate.Unknown},
	} {
		if got := judgeHost(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
		if got := judgeHost(fmt.Errorf("dial: %w", c.err)); c.err != nil && got != c.want {
			t.Errorf("wrapped %v: %v, want %v", c.err, got, c.want)
		}
	}
}

// What a proxy says of the server counts as if the server had been asked; what it says of the credentials does not.
func TestJudgeHost(t *testing.T) {
	proxy := func(step string, status int, err error) error {
		return &ProxyError{Proxy: "http://proxy:80", Step: step, StatusCode: status, Err: err}
	}
	said := func(text string) error {
		step, err := socksError("connect", errors.New(text))
		return proxy(step, 0, err)
	}
	for _, c := range []struct {
		err  error
		want gate.Verdict
	}{
		{proxy("auth", 407, errProxyAuth), gate.NotYou},
		{proxy("auth", 0, errProxyAuth), gate.NotYou},
		{proxy("auth", 0, io.EOF), gate.Failed}, // it broke while the password was on its way
		{proxy("connect", 403, errors.New("no")), gate.NotYou},
		{proxy("connect", 502, errors.New("no")), gate.Failed},
		{proxy("dial", 0, syscall.ECONNREFUSED), gate.Failed},
		{proxy("dial", 0, syscall.EADDRNOTAVAIL), gate.Unknown},
		{proxy("tunnel", 0, io.ErrUnexpectedEOF), gate.Failed},
		{proxy("connect", 0, context.DeadlineExceeded), gate.Failed},
		{proxy("connect", 0, ErrStopped), gate.Unknown},
		{proxy("greeting", 0, errMethod), gate.Unknown},
		{said("unknown error connection refused"), gate.Failed},
		{said("unknown error host unreachable"), gate.Failed},
		{said("unknown error general SOCKS server failure"), gate.Failed},
		{said("unknown error unknown code: 91"), gate.Failed},
		{said("unknown error connection not allowed by ruleset"), gate.Unknown},
		{said("unknown error address type not supported"), gate.Unknown},
		{said("username/password authentication failed"), gate.NotYou},
		{said("unexpected protocol version 72"), gate.Unknown},
		{context.Canceled, gate.Unknown},
		{ErrReconnect, gate.Unknown},
	} {
		if got := judgeHost(fmt.Errorf("dial: %w", c.err)); got != c.want {
			t.Errorf("%v: outcome %d, want %d", c.err, got, c.want)
		}
	}
}
