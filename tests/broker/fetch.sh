#!/bin/sh
# Copies the test broker's jars from Maven Central into .cache/kafka/libs, once per pom.xml.
set -eu
cd "$(dirname "$0")"
cache=../../.cache/kafka
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
cmp -s pom.xml "$cache/libs/pom.xml" && exit 0
rm -rf "$cache/libs" "$cache/new"
# Without its own build directory Maven would leave a target/ beside the sources.
mvn -q -B -Dstyle.color=never dependency:copy-dependencies -DoutputDirectory="$PWD/$cache/new"
cp pom.xml "$cache/new/"
mv "$cache/new" "$cache/libs"
