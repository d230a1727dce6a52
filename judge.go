package wsshard

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
)

// This file answers: what does a dial's result say of the host? And what does an error of a socket speak of, on each system?

// judgeHost says so for the gate. Refused, reset, timeout, TLS, DNS and 5xx speak against it, and so does what
// Config.Connection.NetDialContext returns and nobody knows; what went wrong on our side says nothing.
func judgeHost(err error) gate.Verdict {
	var he *HandshakeError
	var pe *ProxyError
	var ne net.Error
	var te *tlsError
	var oe *net.OpError
	var td *theirDialError
	var de *net.DNSError
	var ae *net.AddrError
	switch {
	case err == nil:
		return gate.Up
	case errors.Is(err, context.Canceled), errors.Is(err, ErrStopped):
		return gate.Unknown
	case errors.As(err, &pe) && pe.StatusCode != 0:
		return answered(pe.StatusCode)
	case errors.Is(err, errProxyAuth):
		return gate.NotYou
	case errors.Is(err, errUnreachable):
		return gate.Failed
	case errors.As(err, &he):
		return answered(he.StatusCode)
	case isSocketError(err, socketOurs), errors.As(err, &ae), strings.Contains(err.Error(), "no suitable address"): // of our family
		return gate.Unknown
	case errors.As(err, &te), errors.As(err, &oe) && (oe.Op == "remote error" || oe.Op == "local error"):
		return gate.Failed // alerts, theirs and ours: TLS 1.3 refuses a client after the handshake
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return gate.Failed
	case isSocketError(err, socketDown), isBroken(err), errors.As(err, &de):
		return gate.Failed
	case errors.As(err, &td):
		return gate.Failed
	}
	return gate.Unknown
}

// answered is what an HTTP status says.
func answered(status int) gate.Verdict {
	switch {
	case status == http.StatusTooManyRequests:
		return gate.TooMany
	case status == http.StatusTeapot:
		return gate.Banned
	case status == http.StatusUnauthorized, status == http.StatusForbidden, status == http.StatusProxyAuthRequired:
		return gate.NotYou
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly, status >= 500:
		return gate.Failed
	}
	return gate.Neither
}

// theirDialError marks what Config.Connection.NetDialContext returned.
type theirDialError struct{ err error }

func (e *theirDialError) Error() string { return e.err.Error() }
func (e *theirDialError) Unwrap() error { return e.err }

// toldError is an answer of a proxy that named a time.
type toldError struct {
	error
	retryAfter time.Duration
}

func (e *toldError) Unwrap() error { return e.error }

// What a host may ask for at most.
const (
	maxRetryAfter  = time.Hour
	maxBannedAfter = 72 * time.Hour // after a 418
)

// retryAfter is what an answer of 429, 418 or 503 asks for, at most what such an answer may; 0: nothing.
func retryAfter(status int, h http.Header, now time.Time) time.Duration {
	most := maxRetryAfter
	switch status {
	case http.StatusTeapot:
		most = maxBannedAfter
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
	default:
		return 0
	}
	if at, err := http.ParseTime(h.Get("Date")); err == nil { // a date is meant by the clock that made this one
		now = at
	}
	return parseRetryAfter(h.Get("Retry-After"), now, most)
}

// parseRetryAfter reads seconds, with a fraction too, or an HTTP date (RFC 9110 §10.2.3); 0: neither, or past.
func parseRetryAfter(value string, now time.Time, most time.Duration) time.Duration {
	value = strings.TrimSpace(value)
	if at, err := http.ParseTime(value); err == nil {
		return max(0, min(at.Sub(now), most))
	}
	if strings.Trim(value, "0123456789.") != "" { // no exponents, no signs, no NaN
		return 0
	}
	n, err := strconv.ParseFloat(value, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return 0
	}
	return time.Duration(math.Ceil(min(n, most.Seconds()) * float64(time.Second)))
}

// dialResult is what the gate learns of a dial.
func dialResult(host gate.Verdict, err error) gate.Result {
	r := gate.Result{Verdict: host, Err: err}
	var he *HandshakeError
	var pe *ProxyError
	var told *toldError
	switch {
	case errors.As(err, &he):
		r.Status, r.RetryAfter = he.StatusCode, he.RetryAfter
	case errors.As(err, &pe):
		r.Status = pe.StatusCode
		if errors.As(err, &told) {
			r.RetryAfter = told.retryAfter
		}
	}
	return r
}

// endedAs says to the gate who ended a session.
func endedAs(cause error) (how gate.End, code int) {
	var ce *CloseError
	switch {
	case cause == nil, isAny(cause, ErrStopped, ErrReplaced, ErrReconnect, ErrMaxLifetime, ErrNotConnected):
		return gate.Ours, 0
	case errors.As(cause, &ce) && !ce.Local:
		return gate.Theirs, ce.Code
	case isBroken(cause) && !isAny(cause, ErrWriteTimeout):
		return gate.Theirs, 0
	}
	return gate.Young, 0
}

// socketFault is whom an error of a socket speaks against.
type socketFault int

const (
	socketOurs  socketFault = iota // this machine: addresses, ports or descriptors that it has not
	socketDown                     // the host, or the way to it
	socketBreak                    // a connection that was there
)

// unixErrors are errors as syscall names them; every system but Windows returns these.
var unixErrors = map[socketFault][]error{
	socketOurs: {
		syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.EACCES, syscall.EPERM,
	},
	socketDown:  {syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN, syscall.ETIMEDOUT},
	socketBreak: {syscall.ECONNRESET, syscall.EPIPE, syscall.ECONNABORTED},
}

// windowsErrors are the numbers that Windows returns: those above 10000 from Winsock, the others from its kernel.
var windowsErrors = map[socketFault][]syscall.Errno{
	socketOurs: {
		10013, // WSAEACCES
		10024, // WSAEMFILE
		10047, // WSAEAFNOSUPPORT: no IPv6 here, for instance
		10048, // WSAEADDRINUSE
		10049, // WSAEADDRNOTAVAIL
		10055, // WSAENOBUFS: ports too
		5,     // ERROR_ACCESS_DENIED
		1314,  // ERROR_PRIVILEGE_NOT_HELD
	},
	socketDown: {
		10050, // WSAENETDOWN
		10051, // WSAENETUNREACH
		10060, // WSAETIMEDOUT
		10061, // WSAECONNREFUSED
		10064, // WSAEHOSTDOWN
		10065, // WSAEHOSTUNREACH
		121,   // ERROR_SEM_TIMEOUT
		1225,  // ERROR_CONNECTION_REFUSED
		1231,  // ERROR_NETWORK_UNREACHABLE
		1232,  // ERROR_HOST_UNREACHABLE
		1234,  // ERROR_PORT_UNREACHABLE
	},
	socketBreak: {
		10052, // WSAENETRESET
		10053, // WSAECONNABORTED
		10054, // WSAECONNRESET
		10058, // WSAESHUTDOWN
		10101, // WSAEDISCON
		64,    // ERROR_NETNAME_DELETED: what a pending read says of a reset
		109,   // ERROR_BROKEN_PIPE
		232,   // ERROR_NO_DATA
		1236,  // ERROR_CONNECTION_ABORTED
	},
}

// isSocketError reports whether err is an error of a socket that speaks against fault.
func isSocketError(err error, fault socketFault) bool {
	return isSocketErrorOn(runtime.GOOS, err, fault)
}

func isSocketErrorOn(goos string, err error, fault socketFault) bool {
	if isAny(err, unixErrors[fault]...) { // on Windows too: an application's NetDialContext may use syscall's names
		return true
	}
	var no syscall.Errno
	return goos == "windows" && errors.As(err, &no) && slices.Contains(windowsErrors[fault], no)
}

// isBroken reports whether err says that a connection ended under a handshake.
func isBroken(err error) bool {
	return isAny(err, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed) || isSocketError(err, socketBreak)
}
