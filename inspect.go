package wsshard

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"path"
	"runtime/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/seed-829c304d/wsshard/internal/gate"
)

// This file answers: what can be seen of a manager, and of one shard?

// ShardCount is the number of shards, connected or not.
func (m *ShardManager[S]) ShardCount() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.life.shards)
}

// TotalSubscriptions is the number of subscriptions that are wanted.
func (m *ShardManager[S]) TotalSubscriptions() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.life.table.Len()
}

// ShardSubscriptions returns a copy of what a shard wants, oldest first; nil for an unknown shard.
func (m *ShardManager[S]) ShardSubscriptions(shardID int) []S {
	m.mu.Lock()
	shards := m.life.shards
	m.mu.Unlock()
	if shardID < 0 || shardID >= len(shards) {
		return nil
	}
	return shards[shardID].desired.List() // of any length, so it is not for manager.mu to wait for
}

// SubscriptionShard says which shard a subscription is on.
func (m *ShardManager[S]) SubscriptionShard(sub S) (shardID int, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.isKey(sub) {
		return -1, false
	}
	if id, ok := m.life.table.Lookup(sub); ok {
		return id, true
	}
	return -1, false
}

// ShardFreshness is the time since the last data on the shard's live connection; false when it is down, had none, or is
// unknown.
func (m *ShardManager[S]) ShardFreshness(shardID int) (time.Duration, bool) {
	s, err := m.shardOf(shardID)
	if err != nil {
		return 0, false
	}
	c := s.live.Load()
	if c == nil {
		return 0, false
	}
	at := c.dataAt.Load()
	if at == 0 {
		return 0, false
	}
	return time.Since(c.conn.At(clocked(at))), true
}

// IsSubscriptionFresh reports whether data came within maxStaleness: for this topic where Inspect names topics, else on its
// shard. False for what is not subscribed, or whose shard is down.
func (m *ShardManager[S]) IsSubscriptionFresh(sub S, maxStaleness time.Duration) bool {
	id, ok := m.SubscriptionShard(sub)
	if !ok {
		return false
	}
	age, ok := m.ShardFreshness(id)
	if !ok {
		return false
	}
	s, err := m.shardOf(id)
	if err != nil {
		return false
	}
	if at, named := s.fresh.of(sub); named {
		return at != 0 && time.Since(m.at(at)) <= maxStaleness
	}
	return age <= maxStaleness
}

// Health says how many shards are connected.
type Health struct {
	Connected, Total int
	Healthy          bool // enough of them; no shards is healthy
}

// Health compares the share of connected shards with minConnectedRatio, in [0, 1].
func (m *ShardManager[S]) Health(minConnectedRatio float64) Health {
	m.mu.Lock()
	shards := m.life.shards // only ever appended to
	m.mu.Unlock()
	h := Health{Total: len(shards)}
	for _, s := range shards {
		if s.live.Load() != nil {
			h.Connected++
		}
	}
	h.Healthy = h.Total == 0 || float64(h.Connected) >= minConnectedRatio*float64(h.Total)
	return h
}

// Metrics returns a copy of all that is counted. It holds nobody up, however many shards there are: totals and numbers of
// subscriptions are of one moment, what else is told of each shard is of the moments after it.
func (m *ShardManager[S]) Metrics() Metrics {
	now := time.Now()
	all, shards, runs, counts := m.countNow(m.ShardCount())
	all.Doors = m.doors()
	for _, run := range runs { // what is counted by shards is added to the totals when their run is over
		for _, s := range run {
			all.MessagesReceived += s.stats.messages.Load()
			all.BytesReceived += s.stats.bytes.Load()
			if s.live.Load() != nil {
				all.ActiveConnections++
			}
		}
	}
	all.Shards = make([]ShardMetrics, len(shards))
	for i, s := range shards {
		sm := s.stats.snapshot(now, m.cfg.Backoff.StableAfter)
		if at := s.stats.lastMessage.Load(); at != 0 {
			sm.LastMessageAt = onClock(m.at(at))
		}
		sm.ShardID, sm.SubscriptionCount = s.id, int(counts[i])
		if c := s.live.Load(); c != nil {
			sm.RTT = time.Duration(c.rtt.Load())
		}
		all.Shards[i] = sm
	}
	return all
}

// countNow takes what has to be of one moment: the totals, the shards of this life and of each run that is not over, and
// how many subscriptions each shard has. It touches no shard. room is how many shards to expect; lists of shards are only
// ever appended to, so they need no copy.
func (m *ShardManager[S]) countNow(room int) (totals Metrics, shards []*shard[S], runs [][]*shard[S], counts []uint32) {
	counts = make([]uint32, 0, room+16)
	m.mu.Lock()
	defer m.mu.Unlock()
	totals = m.count.snapshot()
	for r := m.run; r != nil; r = r.before {
		runs = append(runs, r.shards)
	}
	totals.TotalSubscriptions = m.life.table.Len()
	shards = m.life.shards
	return totals, shards, runs, m.life.table.AppendCounts(counts)
}

// doors are the reports of those that are shut or have a line.
func (m *ShardManager[S]) doors() (all []DoorReport) {
	m.mu.Lock()
	r := m.run
	m.mu.Unlock()
	if r == nil {
		return nil
	}
	for _, report := range r.gate.Doors() {
		all = append(all, *doorReport(report))
	}
	return all
}

// Dump writes for a person what the manager does, what it waits for and since when. After a line about all come the doors that
// are shut or have a line; then, by ShardID, each shard's state, where it stands at which door, what of its subscriptions is
// not proven, the stage of a switchover, what waits to be written, and what is being missed; then the callbacks that run. It
// waits for no shard and no callback. It is text, without a promise of format, and names no topic, no header and no query of a
// URL; what peers said has its control characters escaped. The error is w's. While a read loop is busy Dump takes a goroutine
// profile, which stops the process for some microseconds for each goroutine.
func (m *ShardManager[S]) Dump(w io.Writer) error {
	all, now := m.Metrics(), time.Now()
	var b bytes.Buffer
	phase, shards, gates := m.standing()
	fmt.Fprintf(&b, "wsshard manager %d, %s: %s; %d shards, %d connected; %d topics\n",
		m.number, onClock(now).UTC().Format(time.RFC3339), phase, len(shards), all.ActiveConnections, all.TotalSubscriptions)
	for _, d := range all.Doors {
		fmt.Fprintln(&b, "door", dumpDoor(&d, now))
	}
	var busy []*shard[S]
	for i, s := range shards[:min(len(shards), len(all.Shards))] {
		fmt.Fprintf(&b, "shard %d: %s\n", s.id, strings.Join(s.dump(&all.Shards[i], gates[i], now), ", "))
		if c := s.live.Load(); c != nil && !c.conn.Signs().Waiting {
			busy = append(busy, s)
		}
	}
	for _, call := range m.running.all() {
		fmt.Fprintf(&b, "callback %s", call.callback)
		if call.shard != noShard {
			fmt.Fprintf(&b, " of shard %d", call.shard)
		}
		fmt.Fprintf(&b, ", for %v\n", short(now.Sub(call.since)))
	}
	if len(busy) > 0 {
		where := m.readersCallbacks()
		for _, s := range busy {
			if c := s.live.Load(); c != nil && where[s.id] != "" {
				fmt.Fprintf(&b, "callback %s of shard %d: its read loop has been busy for %v\n",
					where[s.id], s.id, short(now.Sub(c.conn.At(c.conn.Signs().Idle))))
			}
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// standing returns what Dump looks at, as it is in one moment. gates are those of the shards' runs.
func (m *ShardManager[S]) standing() (phase string, shards []*shard[S], gates []*gate.Gate) {
	m.mu.Lock()
	defer m.mu.Unlock()
	shards, phase = m.life.shards, name(m.phase, "not started", "starting", "starting again", "running", "stopped")
	for _, s := range shards {
		if s.run == nil {
			gates = append(gates, nil)
		} else {
			gates = append(gates, s.run.gate)
		}
	}
	return phase, shards, gates
}

func dumpDoor(d *DoorReport, now time.Time) string {
	parts := []string{or(d.Reason, "open")}
	if d.Lasted > 0 {
		parts[0] += " for " + short(d.Lasted)
	}
	if d.Status != 0 {
		parts = append(parts, fmt.Sprint("status ", d.Status))
	}
	if d.Failed > 0 {
		parts = append(parts, fmt.Sprint(d.Failed, " failed"))
	}
	if d.Until.After(now) {
		parts = append(parts, "next try in "+short(d.Until.Sub(now)))
	}
	parts = append(parts, fmt.Sprintf("%d wait, %d are refused in person, %d may dial at once", d.Waiting, d.Benched, d.Width))
	return by(d.Host, d.Egress) + ": " + strings.Join(parts, ", ")
}

// dump says what the shard does. g is the gate of its run; nil: it has none yet.
func (s *shard[S]) dump(sm *ShardMetrics, g *gate.Gate, now time.Time) (parts []string) {
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	var since, next time.Time
	s.stats.set(func(st *shardStats) { since, next = st.since, st.next })
	add("%v for %v", sm.State, short(now.Sub(since)))
	if sm.State == ShardBackoff {
		add("next attempt in %v", short(next.Sub(now)))
	}
	add("generation %d", sm.Generation)
	add("%d topics", sm.SubscriptionCount)
	if sm.Egress != "" {
		add("egress %s", sm.Egress)
	}
	if sm.ReconnectAttempt > 0 {
		add("%d attempts failed", sm.ReconnectAttempt)
	}
	if st := s.stage.Load(); st != nil {
		add("switchover (%s) %s for %v", st.trigger, st.what, short(now.Sub(st.since)))
		if st.next != nil {
			parts = append(parts, st.next.dump("there ")...)
		}
	}
	if t := s.ticket.Load(); t != nil && g != nil {
		parts = append(parts, dumpStand(g.Stand(t), now)...)
	}
	if c := s.live.Load(); c != nil {
		if at := c.dataAt.Load(); at != 0 {
			add("data %v ago", short(now.Sub(c.conn.At(clocked(at)))))
		} else {
			add("no data yet")
		}
		add("frame %v ago", short(now.Sub(c.lastFrame())))
		if sm.RTT > 0 {
			add("RTT %v", short(sm.RTT))
		}
		parts = append(parts, c.dump("")...)
	}
	if topics, from := s.gaps.missing(); topics > 0 {
		add("messages of %d topics are missed since %s", topics, onClock(from).UTC().Format(time.RFC3339Nano))
	}
	if sm.LastError != nil && sm.State != ShardConnected {
		add("last error: %s", printable(sm.LastError.Error()))
	}
	return parts
}

// dump says what the connection waits for.
func (c *session[S]) dump(where string) (parts []string) {
	if n := c.claims.unproven(); n > 0 {
		parts = append(parts, fmt.Sprint(n, " topics ", where, "are not proven"))
	}
	if !c.caughtUp.Load() {
		parts = append(parts, "requests "+where+"are left to write")
	}
	if n := c.out.waiting(); n > 0 {
		parts = append(parts, fmt.Sprint(n, " messages ", where, "wait to be written"))
	}
	return parts
}

func dumpStand(st gate.Stand, now time.Time) []string {
	for_ := " for " + short(now.Sub(st.Since))
	switch at := by(st.Host, st.Egress); st.Where {
	case "dial":
		return []string{"dials " + at + for_}
	case "limiter":
		return []string{"waits for Connection.Limiter at " + at + for_}
	case "bench":
		return []string{"refused in person: sits on the bench at " + at + for_}
	case "line":
		s := fmt.Sprintf("stands in line at %s as %v, %d before it,%s", at, st.Urgency, st.Ahead, for_)
		if st.Turn {
			s += ", waits for a turn (Switchover.MaxConcurrent)"
		}
		return []string{s}
	}
	return nil
}

// by is a door in a word or three.
func by(host, egress string) string {
	if egress == "" {
		return printable(host)
	}
	return printable(host) + " by " + egress
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// short is d for a person.
func short(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(time.Second / 10).String()
	case d >= time.Millisecond:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(time.Microsecond).String()
}

// readersCallbacks says which function of the application each read loop of this manager is in, by shard, as a goroutine
// profile shows it: the loop itself does not say so for each message, which would cost more than many a callback.
func (m *ShardManager[S]) readersCallbacks() map[int]string {
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		return nil
	}
	where := make(map[int]string)
	for _, goroutine := range strings.Split(profile.String(), "\n\n") {
		_, labels, ok := strings.Cut(goroutine, "# labels: ")
		if !ok || labelOf(labels, labelLoop) != "read" || labelOf(labels, labelManager) != strconv.FormatUint(m.number, 10) {
			continue
		}
		if id, err := strconv.Atoi(labelOf(labels, labelShard)); err == nil {
			if f := calledByUs(goroutine); f != "" {
				where[id] = f
			}
		}
	}
	return where
}

// labelOf finds a label of a goroutine in its profile.
func labelOf(labels, label string) string {
	_, value, _ := strings.Cut(labels, strconv.Quote(label)+`:"`)
	value, _, _ = strings.Cut(value, `"`)
	return value
}

// calledByUs finds the function of the application that the outermost functions of this package have called, in a goroutine's
// profile, where the innermost function comes first: "main.(*feed).OnMessage feed.go:120". "": none.
func calledByUs(goroutine string) (called string) {
	lines := bufio.NewScanner(strings.NewReader(goroutine))
	for lines.Scan() {
		fields := strings.Fields(lines.Text()) // "#", the address, the function and its offset, file and line
		if len(fields) < 4 || fields[0] != "#" || strings.HasPrefix(fields[2], packagePath) {
			continue
		}
		f, _, _ := strings.Cut(fields[2], "+0x")
		called = f + " " + path.Base(fields[len(fields)-1])
	}
	if strings.HasPrefix(called, strings.TrimSuffix(packagePath, ".")+"/internal/wsconn.") {
		return "" // it reads
	}
	return called
}
