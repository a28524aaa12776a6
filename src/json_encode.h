/*
 * Lua values to JSON text (RFC 8259). The text is the same in every process: object keys are
 * sorted by their bytes. See lua/orchestrator/json.lua for what has a JSON form.
 */
#ifndef JSON_ENCODE_H
#define JSON_ENCODE_H

#include <lua.h>

struct bytes;

/*
 * Appends the text of the value on top of the stack, which stays as it was, to `text`. `text` and
 * `members`, which is working memory, are borrowed and empty; `members` is left empty. An empty
 * table is an array when its metatable is the one at the address `array`, as lua_topointer gives
 * it. Metamethods are not asked; nothing is raised but Lua's own error when memory runs out.
 * Returns 0; -EINVAL when it has no JSON form, with a message such as "at .items[3].name: nan has
 * no JSON form" in place of the text; -ENOMEM when a buffer or the stack cannot grow. After
 * -ENOMEM, or an error that is raised, the buffers hold anything.
 */
int json_encode_value(lua_State *L, const void *array, struct bytes *text, struct bytes *members);

#endif
