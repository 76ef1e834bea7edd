#!/bin/sh
# Takes mermaid.min.js, which draws the diagrams of the site, from its npm package into .cache/docs.
set -eu
cd "$(dirname "$0")/.."
version=11.17.2
digest=581ed7d74bd9048d0e3a91363927d72ef22942d7722546b27f7cc29e35390eb8
file=.cache/docs/mermaid-$version.min.js
[ -e "$file" ] && exit 0
tools/install-packages.sh npm=npm
mkdir -p .cache/docs
new=$(mktemp -d .cache/docs/new-XXXXXX)
trap 'rm -rf "$new"' EXIT
npm pack --silent --pack-destination "$new" "mermaid@$version" >"$new/name"
tar -xzf "$new/$(cat "$new/name")" -C "$new" package/dist/mermaid.min.js
echo "$digest  $new/package/dist/mermaid.min.js" | sha256sum --check --quiet
rm -f .cache/docs/mermaid-*
mv "$new/package/dist/mermaid.min.js" "$file"
