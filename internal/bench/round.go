package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// This file answers: how are processes run and rounds ordered?

// patience is how long one client may take.
const patience = 2 * time.Minute

// measureAll runs what is wanted of the plan.
func measureAll(opt options, m *measured, progress io.Writer) error {
	began := time.Now()
	if err := m.check(opt, progress); err != nil {
		return err
	}
	var list []testcase
	for _, c := range plan() {
		if opt.wanted(c.name) {
			list = append(list, c)
		}
	}
	for i, c := range list {
		rounds := opt.rounds
		if strings.HasPrefix(c.name, "growth/") {
			rounds = min(rounds, 3)
		}
		if opt.quick {
			c = c.quickly()
		}
		fmt.Fprintf(progress, "%2d/%d  %4s  %s ", i+1, len(list), time.Since(began).Round(time.Second), c.name)
		rows, err := compare(c, rounds, progress)
		if err != nil {
			return err
		}
		m.add(c.name, rows)
		m.Load = append(m.Load, load())
		fmt.Fprintln(progress)
		if opt.writes() {
			if err := m.save(opt.out); err != nil {
				return err
			}
		}
	}
	return nil
}

// check has every contender deliver byte for byte, plain and with TLS, small and large.
func (m *measured) check(opt options, progress io.Writer) error {
	all := make(map[string]bool)
	for _, c := range plan() {
		for _, who := range c.contenders {
			all[who] = opt.wanted(c.name) || all[who]
		}
	}
	maps.DeleteFunc(all, func(_ string, wanted bool) bool { return !wanted })
	sizes := []int{64, 256, 16384, 100_000}
	if opt.quick {
		sizes = sizes[3:]
	}
	for _, who := range slices.Sorted(maps.Keys(all)) {
		if slices.Contains(m.Checked, who) {
			continue
		}
		for _, size := range sizes {
			for _, secure := range []bool{false, true} {
				s := spec{Mode: "saturated", Size: size, Conns: 3, Messages: 300, Subs: 1, Check: true, TLS: secure}
				if _, err := once(s.with(who)); err != nil {
					return fmt.Errorf("%s does not deliver messages of %d bytes (TLS: %v): %w", who, size, secure, err)
				}
			}
		}
		m.Checked = append(m.Checked, who)
		fmt.Fprintf(progress, "%s delivers byte for byte\n", who)
	}
	return nil
}

// compare runs rounds of one case, each with all contenders in a new order.
func compare(c testcase, rounds int, progress io.Writer) (figures, error) {
	rows := make(figures)
	for _, who := range c.contenders {
		rows[who] = make(map[string][]float64)
	}
	for range rounds {
		for _, i := range rand.Perm(len(c.contenders)) {
			who := c.contenders[i]
			res, err := once(c.spec.with(who))
			if err != nil {
				return nil, fmt.Errorf("%s, %s: %w", c.name, who, err)
			}
			for figure, v := range res.Figures {
				rows[who][figure] = append(rows[who][figure], v)
			}
		}
		fmt.Fprint(progress, ".")
	}
	return rows, nil
}

// once runs one server and one client.
func once(s spec) (result, error) {
	server, err := begin("server", s)
	if err != nil {
		return result{}, err
	}
	defer server.end()
	if err := server.answer(&s.place); err != nil {
		return result{}, fmt.Errorf("the server: %w", err)
	}
	client, err := begin("client", s)
	if err != nil {
		return result{}, err
	}
	defer client.end()
	var res result
	switch err := client.answer(&res); {
	case err != nil:
		return res, fmt.Errorf("the client: %w", err)
	case res.Err != "":
		return res, errors.New(res.Err)
	case res.Wrong > 0:
		return res, fmt.Errorf("%d messages are not what was sent", res.Wrong)
	}
	return res, nil
}

// child is one process of ours.
type child struct {
	cmd    *exec.Cmd
	orders io.Closer
	out    io.Reader
	limit  *time.Timer
}

func begin(role string, s spec) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd, in, out, time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })}
	return c, json.NewEncoder(in).Encode(s)
}

func (c *child) answer(v any) error { return json.NewDecoder(c.out).Decode(v) }

// end lets a child go: a server when its orders end, a client when it has answered.
func (c *child) end() {
	_ = c.orders.Close()
	_ = c.cmd.Wait()
	c.limit.Stop()
}
