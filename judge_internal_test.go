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
)

// What the breaker learns from each way to fail: the host is up, down, or it was us.
func TestJudgeHostByError(t *testing.T) {
	op := func(op string, err error) error {
		return &net.OpError{Op: op, Net: "tcp", Err: os.NewSyscallError(op, err)}
	}
	for _, c := range []struct {
		err  error
		want outcome
	}{
		{nil, hostUp},
		{&HandshakeError{StatusCode: 101}, hostUp},
		{&HandshakeError{StatusCode: 200}, hostUp},
		{&HandshakeError{StatusCode: 302}, hostUp},
		{&HandshakeError{StatusCode: 401}, hostUp},
		{&HandshakeError{StatusCode: 429}, hostUp},
		{&HandshakeError{}, hostUp},
		{&HandshakeError{StatusCode: 500}, hostDown},
		{&HandshakeError{StatusCode: 503}, hostDown},
		{op("connect", syscall.ECONNREFUSED), hostDown},
		{op("connect", syscall.EHOSTUNREACH), hostDown},
		{op("connect", syscall.ENETUNREACH), hostDown},
		{op("connect", syscall.ETIMEDOUT), hostDown},
		{op("read", syscall.ECONNRESET), hostDown},
		{op("write", syscall.EPIPE), hostDown},
		{io.ErrUnexpectedEOF, hostDown},
		{fmt.Errorf("not connected: %w", context.DeadlineExceeded), hostDown},
		{os.ErrDeadlineExceeded, hostDown},
		{&tlsError{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}}, hostDown},
		{&tlsError{tls.RecordHeaderError{}}, hostDown},
		{&tlsError{errors.New("tls: whatever")}, hostDown},
		{&net.OpError{Op: "remote error", Err: tls.AlertError(116)}, hostDown}, // "certificate required", after the handshake
		{op("bind", syscall.EADDRNOTAVAIL), hostUnknown},
		{op("socket", syscall.EMFILE), hostUnknown},
		{op("bind", syscall.EADDRINUSE), hostUnknown},
		{context.Canceled, hostUnknown},
		{ErrStopped, hostUnknown},
		{ErrInvalidURL, hostUnknown},
		{ErrInvalidHeader, hostUnknown},
		{errors.New("the handler's own"), hostUnknown},
		{&PanicError{}, hostUnknown},
	} {
		if got := judgeHost(c.err); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
		if got := judgeHost(fmt.Errorf("dial: %w", c.err)); c.err != nil && got != c.want {
			t.Errorf("wrapped %v: %v, want %v", c.err, got, c.want)
		}
	}
}
