// Package servers runs wsshard against servers that nobody here wrote, over real sockets on the loopback interface.
//
// nats-server runs inside the tests, with a WebSocket listener. Subscriber, in nats.go and parse.go, is a complete
// wsshard.Handler for the NATS protocol, and meant to be read as an example of one: a login that waits for a greeting, many
// protocol lines in a frame and lines that go on in the next one, acknowledgements by the order of PING and PONG, keys.
//
//	go test ./...
//
// The tests behind the tag "integration" need more. TestWS starts server.js, which stands on the npm package ws: it needs node
// and npm, and npm needs its registry. TestSoak starts NATS, nginx, squid and microsocks in network namespaces of its own and
// breaks them for two minutes: it needs Linux, root, and what ../install.sh installs on Debian and its kin. Where something is
// missing they fail; nothing is skipped.
//
//	bash ../install.sh
//	go test -tags integration ./...
//	go test -tags integration -run TestSoak -v -timeout 20m -soak 10m
//
// With -v the tests print what they counted.
package servers
