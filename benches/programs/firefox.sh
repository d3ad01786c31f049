#!/bin/sh
# firefox.sh FOLDER: loads the page through the proxy and takes a picture of it.
set -e
mkdir "$1/profile"
cat > "$1/profile/user.js" << 'END'
user_pref('network.proxy.type', 1);
user_pref('network.proxy.socks', '127.0.0.1');
user_pref('network.proxy.socks_port', 9050);
user_pref('network.proxy.socks_version', 5);
user_pref('network.proxy.socks_remote_dns', true);
user_pref('network.proxy.allow_hijacking_localhost', true);
user_pref('network.captive-portal-service.enabled', false);
user_pref('network.connectivity-service.enabled', false);
user_pref('app.update.enabled', false);
END
HOME=$1 exec firefox-esr --headless --no-remote --profile "$1/profile" --screenshot "$1/page.png" http://127.0.0.1:8000/
