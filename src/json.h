/*
 * JSON (RFC 8259) for Lua: the module `orchestrator.core.json`.
 *
 * What is decoded and encoded again is equal by value, and the text is the same in every process.
 * See lua/orchestrator/json.lua for the words users read.
 *
 *   decode(text)  → value | nil, message such as "line 1, byte 17: expected a value"
 *   encode(value) → text | nil, message such as "at .items[3].name: nan has no JSON form"
 *   null          the value of JSON's null (a light userdata)
 *   array(t)      marks the table `t` (a new one without it), so that it is written `[]` when empty
 *
 * Only misuse raises (a text that is no string, marking what is no table), and a lack of memory.
 */
#ifndef JSON_H
#define JSON_H

#include <lua.h>

/* Pushes the module. Its buffers belong to `L` and are freed with it. */
int luaopen_orchestrator_core_json(lua_State *L);

#endif
