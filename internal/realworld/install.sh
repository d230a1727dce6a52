#!/usr/bin/env bash
# Installs what the tests behind the tag "integration" start: proxies, a web server, a firewall. Debian and its kin; needs root.
# No service is started: the tests run what they need, in network namespaces of their own. Arguments are packages more.
set -euo pipefail
parts=(dante-server microsocks tinyproxy squid-openssl nginx-light stunnel4 apache2-utils iproute2 iptables util-linux "$@")
missing=()
for part in "${parts[@]}"; do
	dpkg-query -W -f '${Status}' "$part" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$part")
done
if [ ${#missing[@]} -eq 0 ]; then
	exit 0
fi
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
# Packages would start their services at once, on the ports of this machine.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
	"${as_root[@]}" chmod +x "$policy"
	trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
