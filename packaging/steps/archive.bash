# The archive of the same files. Sourced by packaging/build.
# shellcheck shell=bash disable=SC2154

build_archive() {
    local name=wsecho-$version archive=$out/wsecho-$version-$release.$arch.tar.gz
    mkdir "$work/archive"
    packaging/stage tar "$work/archive/$name" "$program" "$licences" > /dev/null
    pack "$archive" "$work/archive" "$name"
    wrote "$archive"
}
