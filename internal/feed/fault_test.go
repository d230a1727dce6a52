package feed

import (
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestKillFlushes(t *testing.T) {
	s := start(t, Config{})
	a, b := dial(t, s), dial(t, s)
	a.subscribe("x")
	b.subscribe("x")
	s.Tick(5000)
	if !s.KillOne() {
		t.Fatal("nothing to kill")
	}
	s.Tick(10)
	// The oldest goes, with all it was sent; the other stays.
	if code := a.readEnd(); code != websocket.CloseAbnormalClosure {
		t.Errorf("close code %d, want a plain EOF", code)
	}
	a.want("x", 1, 5000)
	b.readTicks(5010)
	b.want("x", 1, 5010)

	s.Tick(10)
	if n := s.KillAll(); n != 1 {
		t.Errorf("killed %d", n)
	}
	b.readEnd()
	b.want("x", 1, 5020)
	if s.KillOne() || s.KillAll() != 0 {
		t.Error("killed one that was gone")
	}
	finish(t, s)
	if s.Sent() != 10020 || s.Distinct() != 5020 || s.Missed() != 0 {
		t.Errorf("sent %d, distinct %d, missed %d", s.Sent(), s.Distinct(), s.Missed())
	}
	if d := s.Downs(); len(d) != 2 || d[0].Reason != Killed || d[1].Connections != 1 {
		t.Errorf("Downs is %+v", d)
	}
}

func TestRestartKeepsNumbers(t *testing.T) {
	s := start(t, Config{})
	a, b := dial(t, s), dial(t, s)
	a.subscribe("x")
	b.subscribe("x")
	s.Tick(10)
	addr := s.Addr()
	if err := s.Restart(time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if code := a.readEnd(); code != websocket.CloseServiceRestart {
		t.Errorf("close code %d, want 1012", code)
	}
	if code := b.readEnd(); code != websocket.CloseAbnormalClosure {
		t.Errorf("close code %d, want a plain EOF", code)
	}
	a.want("x", 1, 10)
	b.want("x", 1, 10)

	s.Tick(5) // missed
	if s.Addr() != addr {
		t.Errorf("serves %s, was %s", s.Addr(), addr)
	}
	c := dial(t, s)
	c.subscribe("x")
	s.Tick(5)
	c.readTicks(5)
	c.want("x", 16, 20)
	finish(t, s)
	if s.Missed() != 5 {
		t.Errorf("missed %d, want 5", s.Missed())
	}
	d := s.Downs()
	if len(d) != 1 || d[0].Reason != Restarted || d[0].Connections != 2 || d[0].Until.Before(d[0].At.Add(time.Millisecond)) {
		t.Errorf("Downs is %+v", d)
	}
}

func TestRestartOnceAtATime(t *testing.T) {
	s := start(t, Config{})
	var restart sync.WaitGroup
	restart.Go(func() {
		if err := s.Restart(time.Hour); err != ErrClosed {
			t.Errorf("Close left Restart waiting, or not: %v", err)
		}
	})
	for deadline := time.Now().Add(patience); len(s.Downs()) == 0; {
		if time.Now().After(deadline) {
			t.Fatal("Restart does not begin")
		}
	}
	if err := s.Restart(0); err == nil {
		t.Error("two restarts at once")
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	restart.Wait()
}

func TestSilence(t *testing.T) {
	s := start(t, Config{})
	a := dial(t, s)
	a.subscribe("x")
	s.Tick(3)
	if n := s.Silence(time.Hour); n != 1 {
		t.Errorf("silenced %d", n)
	}
	s.Tick(4)
	a.subscribe("y") // answered
	s.Tick(2)

	// Pings are answered.
	ponged := false
	a.ws.SetPongHandler(func(data string) error { ponged = data == "hello"; return nil })
	if err := a.ws.WriteMessage(websocket.PingMessage, []byte("hello")); err != nil {
		t.Fatal(err)
	}

	// A new connection gets data.
	b := dial(t, s)
	b.subscribe("x")
	s.Tick(2)
	b.readTicks(1)
	b.want("x", 9, 9)

	s.Silence(0)
	s.Tick(2)
	a.readTicks(2)
	if !ponged {
		t.Error("no pong")
	}
	if x := a.seen["x"]; len(x) != 4 || x[3] != 10 {
		t.Errorf("received %v", x)
	}
	b.readTicks(1)
	finish(t, s)
	if s.Missed() != 5 { // of x, 4 to 8; y began with its first tick that was sent
		t.Errorf("missed %d: %+v", s.Missed(), s.Counts())
	}
	if d := s.Downs(); len(d) != 1 || d[0].Reason != Silent || d[0].Until.After(time.Now()) {
		t.Errorf("Downs is %+v", d)
	}
}

func TestSlowConsumer(t *testing.T) {
	s := start(t, Config{QueueBytes: 1 << 10})
	slow, other := dial(t, s), dial(t, s)
	slow.subscribe("x")
	other.subscribe("y")
	s.Tick(200) // at once, and more than the queue holds: 100 for each
	for err := error(nil); err == nil; {
		_, err = slow.read()
	}
	if slow.count() >= 100 {
		t.Error("the queue had a place for all")
	}
	finish(t, s)
	if st := s.Stats(); st.SlowConsumers != 2 || st.Connections != 0 {
		t.Errorf("Stats is %+v", st)
	}
	if d := s.Downs(); len(d) != 1 || d[0].Reason != SlowConsumer || d[0].Connections != 2 {
		t.Errorf("Downs is %+v", d)
	}
}

// A client that stops reading is not waited for, and what it was not sent is not counted.
func TestPeerThatDoesNotRead(t *testing.T) {
	s := start(t, Config{QueueBytes: 64 << 20})
	c := dial(t, s)
	topic := names(1)[0]
	c.subscribe(topic)
	s.Tick(250_000) // far more than the socket buffers hold
	_ = c.ws.Close()
	finish(t, s)
	if s.Sent() >= 250_000 {
		t.Errorf("counted %d as sent", s.Sent())
	}
}

// The server's Missed is what a client counts for itself, whatever happened.
func TestMissedIsTheClientsCount(t *testing.T) {
	s := start(t, Config{Rate: 20000})
	topics := names(40)
	var tally Tally
	seen := make(map[string][]uint64)
	faults := []func(){
		func() { s.KillOne() },
		func() { s.KillAll() },
		func() {
			if err := s.Restart(5 * time.Millisecond); err != nil {
				t.Error(err)
			}
		},
		func() { s.Silence(time.Hour); s.KillAll() },
		func() { finish(t, s); s.KillAll() },
	}
	for _, fault := range faults {
		c := dial(t, s)
		c.seen = seen
		c.subscribe(topics...)
		c.readTicks(2000)
		var fail sync.WaitGroup
		fail.Go(fault)
		c.readEnd()
		fail.Wait()
	}

	missed, received := uint64(0), 0
	for topic, numbers := range seen {
		for i, n := range numbers {
			tally.Seen([]byte(topic), n)
			if i > 0 {
				missed += n - numbers[i-1] - 1
			}
		}
		received += len(numbers)
	}
	if missed == 0 {
		t.Error("the faults cost nothing")
	}
	if s.Missed() != missed || tally.Totals().Missed != missed {
		t.Errorf("the client missed %d; Missed is %d, Tally says %d", missed, s.Missed(), tally.Totals().Missed)
	}
	if s.Sent() != uint64(received) || s.Distinct() != uint64(received) {
		t.Errorf("the client received %d; Sent is %d, Distinct %d", received, s.Sent(), s.Distinct())
	}
}
