#!/bin/sh
# Who may include whom: Lua is known to the runtime and to binding files only, libcurl to transfer
# and client only (and main, for its global init), and no layer knows a higher one.
cd "${0%/*}/../src" || exit 2
status=0

# only HEADER-PATTERN FILES…: the pattern may be included by these files alone.
only() {
    pattern=$1
    shift
    for file in *.[ch]; do
        case " $* " in *" $file "*) continue ;; esac
        grep -nE "^ *# *include *[<\"]($pattern)[>\"]" "$file" /dev/null && status=1
    done
}

only '(lua|lauxlib|lualib|luajit)\.h' runtime.c runtime.h host.c host.h json.c json.h \
    json_encode.c json_encode.h lua_file.c lua_file.h main.c
only 'curl/.*' transfer.c transfer.h lane.c lane.h client.c client.h main.c
only 'lua_file\.h' lua_file.c runtime.c
only 'file\.h' file.c lua_file.c transfer.c
only 'runtime\.h' runtime.c main.c
only 'host\.h' host.c runtime.c
only 'client\.h' client.c host.c
only 'origin\.h' origin.c client.c
only 'lane\.h' lane.c origin.h client.c
[ "$status" -eq 0 ] || echo "check_includes: these includes break the rules at the top of $0" >&2
exit "$status"
