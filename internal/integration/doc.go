// Package integration runs wsshard against servers that nobody here wrote, over real sockets on the loopback interface.
//
// nats-server runs inside the tests, with a WebSocket listener. Subscriber, in nats.go and parse.go, is a complete
// wsshard.Handler for the NATS protocol, and meant to be read as an example of one: a login that waits for a greeting, many
// protocol lines in a frame and lines that go on in the next one, acknowledgements by the order of PING and PONG, keys.
//
//	go test ./...
//
// The tests behind the tag "integration" start server.js, which stands on the npm package ws, with node. They need node and
// npm, and npm needs its registry. Where one is missing they fail; nothing is skipped.
//
//	go test -tags integration ./...
//
// With -v the tests print what they counted.
package integration
