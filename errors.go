package wsshard

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// This file answers: which errors exist, who returns them, and how is an address shown in them?

// Errors that methods return.
var (
	// ErrStopped: the manager is stopped. From every method that needs it running; also the cause of a connection that
	// Stop closed.
	ErrStopped = errors.New("wsshard: stopped")
	// ErrStarted: from Start and Run of a manager that is running.
	ErrStarted = errors.New("wsshard: already started")
	// ErrInCallback: from Stop, Sync, HotSwitchover and Send where waiting inside a callback of the same manager would wait
	// for that callback. Stop and HotSwitchover have begun the work, and Send has queued its message; Sync did nothing.
	ErrInCallback = errors.New("wsshard: called inside a callback")
	// ErrCapacity: from Subscribe and Start, in the results of the items that found no place.
	ErrCapacity = errors.New("wsshard: no shard has room")
	// ErrUnknownShard: from methods that take a shard id.
	ErrUnknownShard = errors.New("wsshard: unknown shard")
	// ErrNotConnected: from HotSwitchover and Send when the shard has no live connection.
	ErrNotConnected = errors.New("wsshard: not connected")
	// ErrShardParked: from Sync, HotSwitchover and Send when the shard gave up; Reconnect revives it.
	ErrShardParked = errors.New("wsshard: shard is parked")
	// ErrInvalidSubscription: from Subscribe, for an item that is not equal to itself (a NaN inside) or cannot be hashed.
	ErrInvalidSubscription = errors.New("wsshard: subscription cannot be a key")
	// ErrInvalidMessage: from Send, for a message whose Data is nil, of an unknown type, or text that is not UTF-8.
	ErrInvalidMessage = errors.New("wsshard: invalid message")
	// ErrSwitchoverTimeout: from HotSwitchover, and in EventSwitchoverFailed, when the new connection was not ready in time.
	ErrSwitchoverTimeout = errors.New("wsshard: switchover timed out")
	// ErrSwitchoverHold: from HotSwitchover, and in EventSwitchoverFailed, when more messages waited than may be held.
	ErrSwitchoverHold = errors.New("wsshard: switchover held too many messages")
)

// Causes: why a connection ended or a topic failed, as DisconnectHandler, ErrorHandler and events see them.
var (
	// ErrPongTimeout: Health.FailureThreshold pings in a row were followed by nothing within Health.PongTimeout.
	ErrPongTimeout = errors.New("wsshard: pong timeout")
	// ErrDataTimeout: no data came for Health.DataTimeout.
	ErrDataTimeout = errors.New("wsshard: data timeout")
	// ErrMessageTimeout: a message that had begun was not complete within Health.MessageTimeout.
	ErrMessageTimeout = errors.New("wsshard: message took too long to arrive")
	// ErrWriteTimeout: the peer did not take a frame within Connection.WriteTimeout.
	ErrWriteTimeout = errors.New("wsshard: write timeout")
	// ErrReplaced: the next connection of a switchover has taken over.
	ErrReplaced = errors.New("wsshard: replaced by a hot switchover")
	// ErrMaxLifetime: Connection.ProactiveReconnectInterval is over, where switchovers are disabled.
	ErrMaxLifetime = errors.New("wsshard: connection reached its lifetime")
	// ErrReconnect: Reconnect was called, or something asked for a switchover where they are disabled.
	ErrReconnect = errors.New("wsshard: reconnect was asked for")
	// ErrSequenceGap: a SequenceValidator answered SequenceReconnect.
	ErrSequenceGap = errors.New("wsshard: sequence gap")
	// ErrAckTimeout: of a topic that was written twice and not answered within Subscribe.AckTimeout each time.
	ErrAckTimeout = errors.New("wsshard: no acknowledgement")
	// ErrCircuitOpen: of a switchover, while the host is down and dials are held back. A shard that is down waits instead.
	ErrCircuitOpen = errors.New("wsshard: circuit breaker is open")
	// ErrReadLimit: a message was longer than Config.Connection.ReadLimit. The cause is a *CloseError 1009 that wraps it.
	ErrReadLimit = errors.New("wsshard: message over ReadLimit")
	// ErrMaxUnfinished: the unfinished messages of all connections held more than Config.Connection.MaxUnfinished, and this
	// connection's was the longest. We closed with 1009.
	ErrMaxUnfinished = errors.New("wsshard: unfinished messages over MaxUnfinished")
	// ErrRejected: the reason of a rejected topic whose Ack had no Err.
	ErrRejected = errors.New("wsshard: subscription rejected")
	// ErrInvalidURL: Handler.URL returned something that cannot be dialled; in a *DialError.
	ErrInvalidURL = errors.New("wsshard: invalid URL")
	// ErrInvalidHeader: a header of ConnectionHeaders cannot be sent; in a *DialError.
	ErrInvalidHeader = errors.New("wsshard: invalid header")
)

// ConfigError is one field of Config that New refused. New joins all of them.
type ConfigError struct {
	Field  string // "Connection.SourceIPs[2]"
	Value  any    // redacted
	Reason string
}

func (e *ConfigError) Error() string {
	return fmt.Sprintf("wsshard: Config.%s: %v: %s", e.Field, e.Value, e.Reason)
}

// DialError is an attempt that opened no connection. Err says why: a *HandshakeError, a *ProxyError, a network or TLS
// error, the error of a callback.
type DialError struct {
	URL              string // scheme://host/…
	ShardID, Attempt int    // Attempt counts from 1 since the last stable connection, doors that were found shut included
	Err              error
}

func (e *DialError) Error() string {
	where := e.URL
	if where == "" {
		where = "no URL"
	}
	return fmt.Sprintf("wsshard: dial %s: shard %d, attempt %d: %v", where, e.ShardID, e.Attempt, e.Err)
}

func (e *DialError) Unwrap() error { return e.Err }

// HandshakeError is a server's answer that was no upgrade, or one that the protocol forbids (StatusCode 101, with Reason).
type HandshakeError struct {
	StatusCode int
	Header     http.Header   `json:"-"` // less Set-Cookie; never printed
	RetryAfter time.Duration // 0: none was given; more than an hour is taken for one, after a 418 more than three days for those. A date is taken by the answer's own Date
	Body       []byte        `json:"-"` // first 1 KiB; never printed
	Reason     string        // what was wrong, beside the status
}

func (e *HandshakeError) Error() string {
	var b strings.Builder
	if e.StatusCode == 0 {
		return "wsshard: handshake failed: " + e.Reason
	}
	fmt.Fprintf(&b, "wsshard: server answered %d", e.StatusCode)
	if text := http.StatusText(e.StatusCode); text != "" {
		b.WriteString(" " + text)
	}
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, ", retry after %v", e.RetryAfter)
	}
	return b.String()
}

// Format keeps Header and Body out of every verb: a server may echo what it was sent.
func (e *HandshakeError) Format(f fmt.State, verb rune) { formatError(e, f, verb) }

// ProxyError is a proxy that did not open the way.
type ProxyError struct {
	Proxy      string // scheme://host:port
	Step       string // dial, tls, greeting, auth, connect; tunnel: it broke before the server had answered
	StatusCode int    // of an HTTP proxy; 0: none
	Err        error
}

func (e *ProxyError) Error() string {
	status := ""
	if e.StatusCode != 0 {
		status = fmt.Sprintf(" %d", e.StatusCode)
	}
	return fmt.Sprintf("wsshard: proxy %s: %s%s: %v", e.Proxy, e.Step, status, e.Err)
}

func (e *ProxyError) Unwrap() error { return e.Err }

// CloseError is the close code a connection ended with: received from the server, or, with Local, sent by us because the
// server broke the protocol (1002), sent text that is not UTF-8 (1007), a message over ReadLimit (1009), or, within ten
// seconds, more than 10,000 frames without a byte of data between them (1008).
type CloseError struct {
	Code  int
	Text  string // the peer's words, cut and escaped when printed
	Local bool
}

func (e *CloseError) Error() string {
	who := "server"
	if e.Local {
		who = "we"
	}
	s := fmt.Sprintf("wsshard: %s closed with %d", who, e.Code)
	if e.Text != "" {
		s += ": " + printable(e.Text)
	}
	return s
}

// Is reports ErrReadLimit for a message that was too long.
func (e *CloseError) Is(target error) bool {
	return target == ErrReadLimit && e.Local && e.Code == 1009
}

// PanicError is a callback that panicked, or left by runtime.Goexit (then Value says so).
type PanicError struct {
	Value any    // the application's own; never shortened or redacted
	Stack []byte `json:"-"`
}

func (e *PanicError) Error() string { return fmt.Sprintf("wsshard: panic in a callback: %v", e.Value) }

// Unwrap returns Value where it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// SubscriptionError is one topic that failed: it could not be encoded, was rejected, or was not acknowledged.
type SubscriptionError[S comparable] struct {
	Sub S
	Err error
}

func (e *SubscriptionError[S]) Error() string {
	return fmt.Sprintf("wsshard: subscription %v: %v", e.Sub, e.Err)
}

func (e *SubscriptionError[S]) Unwrap() error { return e.Err }

// formatError prints an error by its Error text whatever the verb asks for.
func formatError(err error, f fmt.State, verb rune) {
	if verb == 'q' {
		fmt.Fprintf(f, "%q", err.Error())
		return
	}
	fmt.Fprint(f, err.Error())
}

// printable cuts and escapes what a peer said before it goes into an error or a log.
func printable(s string) string {
	const most = 200
	if len(s) > most {
		s = s[:most]
		for !utf8.ValidString(s) && len(s) > most-utf8.UTFMax {
			s = s[:len(s)-1]
		}
		s += "…"
	}
	q := fmt.Sprintf("%q", s)
	return q[1 : len(q)-1]
}

// name returns the word for an enumeration's value.
func name[E ~int](v E, words ...string) string {
	if int(v) < 0 || int(v) >= len(words) {
		return fmt.Sprintf("unknown(%d)", int(v))
	}
	return words[v]
}

// redactURL shows raw as scheme://host/…: no userinfo, path, query or fragment. What cannot be parsed shows nothing, and neither
// does what may be no scheme or no host at all: in "//token" and "token://" a secret stands where they should.
func redactURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || !slices.Contains(schemes, u.Scheme) || !validHost(u) { // not user:password of which the "@" was forgotten
		return "…"
	}
	return u.Scheme + "://" + u.Host + "/…"
}

// schemes are those that somebody may mean.
var schemes = []string{"ws", "wss", "http", "https", "socks5", "socks5h", "socks4", "socks4a", "socks", "ftp", "tcp", "tls", "ssl"}

// redactRefused shows a proxy's URL that was refused. In one with an unescaped "/", "?" or "#" in its password, what is parsed
// as the host is the user.
func redactRefused(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.User == nil && strings.Contains(raw, "@") {
		return "…"
	}
	return redactURL(raw)
}

// redactProxy shows a proxy as scheme://host:port.
func redactProxy(u *url.URL) string { return u.Scheme + "://" + u.Host }
