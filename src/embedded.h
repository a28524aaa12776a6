#ifndef EMBEDDED_H
#define EMBEDDED_H

#include <stddef.h>

/*
 * The Lua half of the program as LuaJIT bytecode, debug information kept. The table is generated
 * by the build (see embed_module in CMakeLists.txt). Chunk names are "@orchestrator/fetch.lua".
 */
struct embedded_module {
    const char *name;          /* what `require` takes: "orchestrator.fetch" */
    const unsigned char *code; /* static storage */
    size_t size;               /* bytes of code */
};

extern const struct embedded_module embedded_modules[];
extern const size_t embedded_modules_count;

#endif
