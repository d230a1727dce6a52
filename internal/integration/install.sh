#!/usr/bin/env bash
# Installs what the soak of this module starts: what the module egress starts, and a firewall.
exec bash "$(dirname "$0")/../egress/install.sh" iptables util-linux
