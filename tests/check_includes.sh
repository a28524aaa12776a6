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
    json_encode.c json_encode.h lua_file.c lua_file.h lua_crypto.c lua_crypto.h \
    lua_store.c lua_store.h lua_rows.c lua_postgres.c lua_postgres.h lua_writer.c lua_writer.h main.c
only 'curl/.*' memory.c transfer.c transfer.h outcome.c outcome.h upload.c upload.h lane.c lane.h watch.h profile.c profile.h \
    hop.c hop.h client.c client.h tls.c tls.h main.c
only 'memory\.h' memory.c transfer.c client.c lua_crypto.c
only 'openssl/.*' memory.c tls.c lua_crypto.c sql_functions.c
only 'sqlite3\.h' database.h
only 'database\.h' database.c sql_functions.h insert.c store.c lua_store.c
only 'sql_functions\.h' sql_functions.c database.c
only 'store\.h' store.c lua_store.c
only 'lua_store\.h' lua_store.c host.c
only 'lua_crypto\.h' lua_crypto.c runtime.c
only 'lua_file\.h' lua_file.c runtime.c
only 'file\.h' file.c lua_file.c lua_store.c transfer.c output.c scan.c widen.c lua_writer.c
only 'codec\.h' codec.c output.h scan.h widen.h
only '(scan|widen)\.h' scan.c widen.c output.h
only 'output\.h' output.c writer.h
only 'writer\.h' writer.c lua_writer.c
only 'lua_writer\.h' lua_writer.c host.c
only 'rows\.h' rows.c lua_rows.c insert.c copy.h
only 'insert\.h' insert.c store.c
only 'copy\.h' copy.c session.h
only 'session\.h' session.c postgres.c lua_postgres.c
only 'lua_rows\.h' lua_rows.c runtime.c
only 'libpq-fe\.h' session.c
only 'postgres\.h' postgres.c lua_postgres.c
only 'lua_postgres\.h' lua_postgres.c host.c runtime.c
only 'runtime\.h' runtime.c main.c
only 'host\.h' host.c runtime.c
only 'client\.h' client.c host.c
only 'hop\.h' hop.c client.c
only 'profile\.h' profile.c hop.h client.h
only 'origin\.h' origin.c profile.h
only 'lane\.h' lane.c origin.h profile.h
only 'watch\.h' watch.c lane.h
[ "$status" -eq 0 ] || echo "check_includes: these includes break the rules at the top of $0" >&2
exit "$status"
