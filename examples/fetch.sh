#!/bin/sh
# Copies Flink's connectors from Maven Central into .cache/examples-flink and builds the program
# for Kafka Streams in .cache/examples-kafka_streams, once per pom.xml and source.
set -eu
cd "$(dirname "$0")"
cache=$(cd .. && pwd)/.cache
mkdir -p "$cache"
exec 9>"$cache/examples.lock"
flock 9

# make DIRECTORY MAVEN'S WORDS...
make() {
    directory=$1
    shift
    to=$cache/examples-$directory
    sources=$(find "$directory" \( -name pom.xml -o -name '*.java' \) -exec sha256sum {} + | sort)
    [ "$sources" = "$(cat "$to/sources" 2>/dev/null)" ] && return
    rm -rf "$to"
    mvn -q -B -Dstyle.color=never -f "$directory/pom.xml" "$@"
    echo "$sources" >"$to/sources"
}

make flink org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
    -DoutputDirectory="$cache/examples-flink"
make kafka_streams package -Dto="$cache/examples-kafka_streams"
