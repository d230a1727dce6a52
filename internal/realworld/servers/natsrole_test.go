package servers

import (
	"encoding/json"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// This file answers: how does a NATS server run in a process of its own?

// natsVar is the environment variable that tells it where to listen: natsPlace as JSON.
const natsVar = "WSSHARD_NATS"

type natsPlace struct {
	Client, Monitor int // ports on the loopback interface
	Websocket       int // port on all addresses
}

// runNATS ends in an orderly way at SIGTERM.
func runNATS() error {
	var at natsPlace
	if err := json.Unmarshal([]byte(os.Getenv(natsVar)), &at); err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: at.Client,
		HTTPHost: "127.0.0.1", HTTPPort: at.Monitor,
		Websocket:    server.WebsocketOpts{Host: "::", Port: at.Websocket, NoTLS: true},
		PingInterval: 2 * time.Second, MaxPingsOut: 5, WriteDeadline: 2 * time.Second, // the dead are to leave its list soon
		NoLog: true, NoSigs: true,
	})
	if err != nil {
		return err
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return errors.New("it does not start")
	}
	<-term
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}
