// Package proxies holds tests only: wsshard through well-kept proxy servers in Go, and, behind the tag "integration", through
// the proxies and web servers that people run, which ../install.sh installs. It is a module of its own so that the library needs
// none of them.
package proxies
