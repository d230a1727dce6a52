package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"
)

// This file answers: how is the cost of one driver taken?

// spec is one measurement, for the server and for the client.
type spec struct {
	place
	Mode     string        // saturated, paced, idle, storm, restore, memory, subscribe, replay
	Driver   string        // of drivers
	Buffer   int           // read buffer, bytes
	Size     int           // of a message, bytes
	Conns    int           //
	Messages int           // to each connection
	Batch    int           // frames in one write; 0: 64 KiB of them
	Rate     float64       // messages a second to each connection; 0: as fast as it goes
	Subs     int           // subscriptions on each connection
	PerSub   int           // messages that answer each; 0: they wait for the start
	Seconds  float64       // of idleness
	Settle   time.Duration // before what is measured begins
	Ballast  int           // MiB of other live heap
	Check    bool          // byte for byte
	TLS      bool
}

// result is what came of it: figures by their names, which plan.go explains.
type result struct {
	Err     string
	Wrong   int // messages that were not what was sent
	Figures map[string]float64
}

// measure is the client process.
func measure(s spec) result {
	ballast := make([]*[1 << 20]byte, s.Ballast)
	for i := range ballast {
		ballast[i] = new([1 << 20]byte)
	}
	j, err := newJob(s)
	if err != nil {
		return result{Err: err.Error()}
	}
	figures, err := modes[s.Mode](j)
	if err != nil {
		return result{Err: err.Error()}
	}
	res := result{Figures: figures}
	for _, c := range j.consumers {
		res.Wrong += c.wrong
	}
	runtime.KeepAlive(ballast)
	return res
}

func newJob(s spec) (*job, error) {
	j := &job{spec: s, consumers: make([]*consumer, s.Conns), topics: make([]string, s.Conns*s.Subs)}
	for i := range j.topics {
		j.topics[i] = fmt.Sprintf("topic-%08d", i)
	}
	for i := range j.consumers {
		c := &consumer{}
		if s.Check {
			c.check = newRing(s.Size)
		}
		if s.Mode == "paced" && !s.Check {
			c.late = make([]int64, 0, s.Messages)
		}
		j.consumers[i] = c
	}
	if s.TLS {
		cert, err := x509.ParseCertificate(s.Cert)
		if err != nil {
			return nil, err
		}
		j.tls = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "127.0.0.1"}
		j.tls.RootCAs.AddCert(cert)
	}
	return j, nil
}

// httpClient is for the driver that dials through net/http.
func (j *job) httpClient() *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: j.tls, DisableKeepAlives: true}}
}

// await makes a goal of n messages for every consumer.
func (j *job) await(n int) *sync.WaitGroup {
	var all sync.WaitGroup
	for _, c := range j.consumers {
		all.Add(1)
		c.goals = append(c.goals, goal{n, &all})
	}
	return &all
}

func (j *job) open() error { return drivers[j.Driver](j) }

// order tells the server something.
func (j *job) order(what string) error {
	resp, err := http.Post(j.Control+"/"+what, "", nil)
	if err == nil {
		err = resp.Body.Close()
	}
	return err
}

// cost is what the process used so far.
type cost struct {
	cpu           time.Duration // user and system
	allocs, bytes uint64
}

func costs() cost {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return cost{time.Duration(u.Utime.Nano() + u.Stime.Nano()), m.Mallocs, m.TotalAlloc}
}

// stopwatch takes time and CPU.
type stopwatch struct {
	time.Time
	cost
}

func watch() stopwatch { return stopwatch{time.Now(), costs()} }

// over shares out what it took: ms of all, µs of each, µs of CPU of each.
func (w stopwatch) over(n int) map[string]float64 {
	took, cpu := time.Since(w.Time), costs().cpu-w.cost.cpu
	return map[string]float64{
		"ms":   float64(took) / 1e6,
		"each": float64(took) / 1e3 / float64(n),
		"cpu":  float64(cpu) / 1e3 / float64(n),
	}
}

// rss is the resident memory in KiB, after all garbage was given back.
func rss() (kib float64, err error) {
	runtime.GC()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), "VmRSS:")
	_, err = fmt.Sscan(after, &kib)
	return kib, err
}
