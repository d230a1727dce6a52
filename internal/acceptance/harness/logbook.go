package harness

import (
	"context"
	"log/slog"
	"sync"
)

// This file answers: what was logged?

// Logbook is a slog.Handler that keeps what it is told.
type Logbook struct {
	with []slog.Attr
	book *struct {
		mu    sync.Mutex
		lines []logLine
	}
}

type logLine struct {
	Level slog.Level
	Msg   string
	Attrs map[string]any
}

// Text is an attribute as a string; "" when there is none.
func (l logLine) Text(key string) string {
	s, _ := l.Attrs[key].(string)
	return s
}

// NewLogbook has an empty one.
func NewLogbook() *Logbook {
	return &Logbook{book: new(struct {
		mu    sync.Mutex
		lines []logLine
	})}
}

func (b *Logbook) Enabled(context.Context, slog.Level) bool { return true }
func (b *Logbook) WithGroup(string) slog.Handler            { return b }

func (b *Logbook) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Logbook{with: append(b.with[:len(b.with):len(b.with)], attrs...), book: b.book}
}

func (b *Logbook) Handle(_ context.Context, r slog.Record) error {
	line := logLine{Level: r.Level, Msg: r.Message, Attrs: make(map[string]any)}
	for _, a := range b.with {
		line.Attrs[a.Key] = a.Value.Resolve().Any()
	}
	r.Attrs(func(a slog.Attr) bool {
		line.Attrs[a.Key] = a.Value.Resolve().Any()
		return true
	})
	b.book.mu.Lock()
	defer b.book.mu.Unlock()
	b.book.lines = append(b.book.lines, line)
	return nil
}

// From returns the lines of a level or above.
func (b *Logbook) From(level slog.Level) (found []logLine) {
	b.book.mu.Lock()
	defer b.book.mu.Unlock()
	for _, l := range b.book.lines {
		if l.Level >= level {
			found = append(found, l)
		}
	}
	return found
}
