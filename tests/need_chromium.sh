#!/usr/bin/env bash
# Tests of pages need Chromium. On Debian as root it is installed; elsewhere the missing piece is named.
set -u
for name in chromium chromium-browser google-chrome; do
  command -v "$name" >/dev/null 2>&1 && exit 0
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "Installing Chromium for the tests of pages …" >&2
  if { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    chromium fonts-dejavu-core; } >/tmp/patient-notifier-chromium.log 2>&1; then
    exit 0
  fi
  tail -n 5 /tmp/patient-notifier-chromium.log >&2
fi
echo "Chromium is missing: the tests marked 'browser' will fail. Install the package 'chromium'." >&2
exit 0
