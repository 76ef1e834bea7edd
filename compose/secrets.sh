#!/bin/sh
# Makes what compose/secure.yaml needs, once: the broker's key and certificate, and a password.
#   secrets.sh DIRECTORY
# The certificate is its own authority, for this example; production brokers have one that an
# authority issued. 1000 is the user of the broker's image, 65534 the group of nobody, which the
# agent becomes.
set -eu
cd "$1"
[ ! -e password ] || exit 0
umask 077
# The format requires a password; the file's mode protects the key.
keytool -genkeypair -alias kafka -keyalg EC -groupname secp256r1 -validity 365 -dname CN=kafka \
	-ext SAN=ip:127.0.0.1,dns:localhost -storetype PKCS12 -keystore broker.p12 -storepass changeit
keytool -exportcert -rfc -alias kafka -keystore broker.p12 -storepass changeit -file ca.pem
head -c 18 /dev/urandom | base64 >password.new
chown 1000 broker.p12
chown 0:65534 password.new
chmod 640 password.new
chmod 644 ca.pem
mv password.new password
