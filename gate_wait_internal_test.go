package wsshard

import (
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
)

// This file answers: what does an answer tell the gate?

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
