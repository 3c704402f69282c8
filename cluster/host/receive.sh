#!/bin/sh
# receive.sh FOLDER NAME: put standard input into FOLDER/models/NAME, whole or not at all.
set -eu
mkdir -p "$1/models"
cat >"$1/models/.$2.$$"
mv "$1/models/.$2.$$" "$1/models/$2"
