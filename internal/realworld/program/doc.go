// Package program starts the programs of others, for tests: it finds them, waits until they listen, talks to them, and ends them
// with all that they have started. It also knows how to configure the ones that proxies and servers, the modules beside it, both
// start. It is a module of its own because these two are.
//
// install.sh, one directory up, installs on Debian and its kin what the tests start.
package program
