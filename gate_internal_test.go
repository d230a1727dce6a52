package wsshard

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
)

// This file answers: what does a failure say of its host, and when is the next dial? Its parts are those of judge.go, gate.go
// and backoff.go.

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

// A date is meant by the clock that made the answer's own Date.
func TestRetryAfterByTheServersClock(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for skew, date := range map[time.Duration]bool{0: false, -10 * time.Minute: true, 10 * time.Minute: true} {
		clock := now.Add(skew)
		h := http.Header{"Retry-After": {clock.Add(30 * time.Second).Format(http.TimeFormat)}}
		if date {
			h.Set("Date", clock.Format(http.TimeFormat))
		}
		for status, want := range map[int]time.Duration{429: 30 * time.Second, 418: 30 * time.Second, 503: 30 * time.Second, 403: 0, 500: 0} {
			if got := retryAfter(status, h, now); got != want {
				t.Errorf("clock off by %v, %d: %v, want %v", skew, status, got, want)
			}
		}
	}
}

// What the gate learns of a dial: the verdict, the status and the time that was named, a proxy's too.
func TestDialResult(t *testing.T) {
	for _, err := range []error{
		&HandshakeError{StatusCode: 429, RetryAfter: time.Minute},
		&ProxyError{Step: "connect", StatusCode: 429, Err: &toldError{errors.New("no tunnel"), time.Minute}},
	} {
		if r := dialResult(judgeHost(err), err); r.Verdict != gate.TooMany || r.Status != 429 || r.RetryAfter != time.Minute {
			t.Errorf("%v: %+v", err, r)
		}
	}
}

// Who ended a session: the host, or we.
func TestEndedAs(t *testing.T) {
	for _, c := range []struct {
		cause error
		how   gate.End
		code  int
	}{
		{ErrStopped, gate.Ours, 0}, {ErrReplaced, gate.Ours, 0}, {ErrReconnect, gate.Ours, 0}, {ErrMaxLifetime, gate.Ours, 0}, {nil, gate.Ours, 0},
		{&CloseError{Code: 4001}, gate.Theirs, 4001}, {&CloseError{Code: 1007, Local: true}, gate.Young, 0},
		{readCause(io.EOF), gate.Theirs, 0}, {ErrPongTimeout, gate.Young, 0}, {ErrDataTimeout, gate.Young, 0},
	} {
		if how, code := endedAs(c.cause); how != c.how || code != c.code {
			t.Errorf("%v: %v %d, want %v %d", c.cause, how, code, c.how, c.code)
		}
	}
}

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
		if judgeHost(&DialError{Err: err}) != gate.Failed {
			t.Errorf("%v does not speak against the host", err)
		}
	}
	if !slices.Equal([]gate.Verdict{judgeHost(syscall.EMFILE), judgeHost(syscall.EADDRNOTAVAIL)}, []gate.Verdict{gate.Unknown, gate.Unknown}) {
		t.Error("what is wrong here speaks against the host")
	}
}

func ladder(cfg BackoffConfig, u float64, n int) (delays []time.Duration) {
	a := newAttempts(Config{Backoff: cfg}.withDefaults(0).Backoff, func() float64 { return u })
	for range n {
		delays = append(delays, a.delay())
	}
	return delays
}

func TestBackoffLadder(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name string
		cfg  BackoffConfig
		u    float64
		want []time.Duration
	}{
		{"defaults", BackoffConfig{DisableJitter: true}, 0, []time.Duration{100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms,
			3200 * ms, 6400 * ms, 12800 * ms, 25600 * ms, 30000 * ms, 30000 * ms}},
		{"most jitter", BackoffConfig{}, 0.5, []time.Duration{50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms,
			6400 * ms, 12800 * ms, 15000 * ms, 15000 * ms}},
		{"nothing drawn", BackoffConfig{}, 0, make([]time.Duration, 12)},
		{"constant", BackoffConfig{DisableJitter: true, Multiplier: 1}, 0, []time.Duration{100 * ms, 100 * ms, 100 * ms}},
		{"first is most", BackoffConfig{DisableJitter: true, InitialDelay: 5 * ms, MaxDelay: 5 * ms}, 0, []time.Duration{5 * ms, 5 * ms}},
		{"steep", BackoffConfig{DisableJitter: true, Multiplier: math.MaxFloat64, MaxDelay: math.MaxInt64}, 0,
			[]time.Duration{100 * ms, eternity, eternity}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := ladder(c.cfg, c.u, len(c.want)); !slices.Equal(got, c.want) {
				t.Errorf("delays %v, want %v", got, c.want)
			}
		})
	}
}

// Full jitter fills all of [0, cap), and does so for each rung: a jitter that is added to a delay, or cut at the cap
// afterwards, brings a crowd back together.
func TestFullJitterFillsItsRange(t *testing.T) {
	cfg := Config{}.withDefaults(0).Backoff
	const shards = 2000
	for rung, most := range ladder(BackoffConfig{DisableJitter: true}, 0, 14) {
		var tenths [10]int
		for shard := range shards {
			a := newAttempts(cfg, newUniform(7, shard))
			var d time.Duration
			for range rung + 1 {
				d = a.delay()
			}
			if d < 0 || d >= most {
				t.Fatalf("rung %d: %v is not in [0, %v)", rung, d, most)
			}
			tenths[10*d/most]++
		}
		for i, n := range tenths {
			if n < shards/20 || n > shards/5 {
				t.Errorf("rung %d: %d of %d delays in tenth %d", rung, n, shards, i)
			}
		}
	}
}

func TestBackoffNeverGivesUp(t *testing.T) {
	a := newAttempts(Config{}.withDefaults(0).Backoff, func() float64 { return 0.9 })
	for i := range 10_000 {
		a.refused()
		if d := a.delay(); d <= 0 || d > 30*time.Second {
			t.Fatalf("attempt %d: %v", i, d)
		}
	}
	if a.failed != 10_000 {
		t.Errorf("%d failures counted", a.failed)
	}
}

func TestOnlyStableSessionsResetBackoff(t *testing.T) {
	cfg := Config{Backoff: BackoffConfig{DisableJitter: true}}.withDefaults(0).Backoff
	for _, c := range []struct {
		uptime time.Duration
		failed int
		next   time.Duration
	}{
		{0, 4, 800 * time.Millisecond},
		{5*time.Second - 1, 4, 800 * time.Millisecond},
		{5 * time.Second, 0, 100 * time.Millisecond},
	} {
		a := newAttempts(cfg, nil)
		for range 3 {
			a.refused()
			a.delay()
		}
		a.lost(c.uptime)
		if d := a.delay(); a.failed != c.failed || d != c.next {
			t.Errorf("up %v: %d failures, then %v; want %d, %v", c.uptime, a.failed, d, c.failed, c.next)
		}
	}
}

func TestJitterIsReproducible(t *testing.T) {
	draw := func(seed uint64, shard int) (f [4]float64) {
		u := newUniform(seed, shard)
		for i := range f {
			f[i] = u()
		}
		return f
	}
	if draw(1, 2) != draw(1, 2) || draw(1, 2) == draw(1, 3) || draw(1, 2) == draw(2, 2) || draw(0, 2) == draw(0, 2) {
		t.Error("the same seed and shard must draw the same, others not")
	}
}

// Our window is a tenth longer than the server's, and never more than a second.
func TestPaceOfALongWindow(t *testing.T) {
	for window, want := range map[time.Duration]time.Duration{
		time.Second: 1100 * time.Millisecond, 10 * time.Second: 11 * time.Second, 2 * time.Minute: 121 * time.Second, time.Hour: time.Hour + time.Second,
	} {
		p, now := newPace(SubscribeConfig{MessagesPerWindow: 2, Window: window}), time.Now()
		p.charge(now, 1)
		if got := p.wait(now); got != want {
			t.Errorf("%v: the next frame may leave after %v, want %v", window, got, want)
		}
	}
}
