#include "bytes.h"
#include "json.h"

#include <lauxlib.h>
#include <lualib.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { DEPTH = 1000 };

static void open_json(lua_State *L)
{
    luaL_openlibs(L);
    lua_pushcfunction(L, luaopen_orchestrator_core_json);
    lua_call(L, 0, 1);
    lua_setglobal(L, "json");
}

static int setup(void **state)
{
    lua_State *L = luaL_newstate();
    assert_non_null(L);
    open_json(L);
    *state = L;
    return 0;
}

static int teardown(void **state)
{
    lua_close(*state);
    return 0;
}

/* Calls json[function] with the value on top of the stack, which it replaces by two results. */
static void call(lua_State *L, const char *function)
{
    lua_getglobal(L, "json");
    lua_getfield(L, -1, function);
    lua_replace(L, -2);
    lua_insert(L, -2);
    lua_call(L, 1, 2);
}

static void check_text(lua_State *L, int index, const char *expected, size_t len)
{
    size_t got;
    const char *text = lua_tolstring(L, index, &got);
    assert_non_null(text);
    assert_int_equal(got, len);
    assert_memory_equal(text, expected, len);
}

/* Decodes `text`, encodes the value and checks the outcome. */
static void check_again(lua_State *L, const char *text, size_t len, const char *expected)
{
    lua_pushlstring(L, text, len);
    call(L, "decode");
    if (lua_isstring(L, -1))
        fail_msg("%s: %s", text, lua_tostring(L, -1));
    lua_pop(L, 1);
    call(L, "encode");
    assert_true(lua_isnil(L, -1));
    check_text(L, -2, expected, strlen(expected));
    lua_pop(L, 2);
}

static void check_refused(lua_State *L, const char *text, size_t len, const char *message)
{
    lua_pushlstring(L, text, len);
    call(L, "decode");
    assert_true(lua_isnil(L, -2));
    assert_true(lua_isstring(L, -1));
    assert_string_equal(lua_tostring(L, -1), message);
    lua_pop(L, 2);
}

/* Runs Lua code; json.encode's results for what it returns must be `text` and `message`. */
static void check_encoded(lua_State *L, const char *code, const char *text, const char *message)
{
    if (luaL_dostring(L, code) != 0)
        fail_msg("%s", lua_tostring(L, -1));
    lua_settop(L, 1);
    call(L, "encode");
    if (text && lua_isstring(L, -1))
        fail_msg("%s: %s", code, lua_tostring(L, -1));
    if (text)
        check_text(L, -2, text, strlen(text));
    else
        assert_true(lua_isnil(L, -2));
    if (message)
        assert_string_equal(lua_tostring(L, -1), message);
    else
        assert_true(lua_isnil(L, -1));
    lua_settop(L, 0);
}

/* Runs Lua code that asserts by itself. */
static void check_lua(lua_State *L, const char *code)
{
    if (luaL_dostring(L, code) != 0)
        fail_msg("%s", lua_tostring(L, -1));
}

struct pair {
    const char *in, *out; /* out = NULL: the same */
};

static void check_pairs(lua_State *L, const struct pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++)
        check_again(L, pairs[i].in, strlen(pairs[i].in), pairs[i].out ? pairs[i].out : pairs[i].in);
}
#define CHECK_PAIRS(L, pairs) check_pairs(L, pairs, sizeof pairs / sizeof *pairs)

static void values_come_back_equal(void **state)
{
    static const struct pair pairs[] = {
        {"null", NULL},
        {"true", NULL},
        {"false", NULL},
        {"0", NULL},
        {"\"\"", NULL},
        {"{}", NULL},
        {"[1,\"two\",null,false,{\"x\":{}}]", NULL},
        {" \t\r\n[ 1 , 2 ]\n", "[1,2]"},
        {"{ \"b\" : 1 , \"a\" : [ { } ] }", "{\"a\":[{}],\"b\":1}"},
        {"\xef\xbb\xbf[\"a byte order mark\"]", "[\"a byte order mark\"]"},
        {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0001\\u001F\"",
         "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\""},
        {"\"\\u0000\"", NULL},
        {"\"\\u00e9\\u20AC\\ud83d\\ude00\"", "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\""},
        {"\"a/b\x7f\"", NULL},
        {"{\"\":1,\"\\u0000\":2,\"\\n\":3}", NULL},
        {"{\"a\":1,\"b\":2,\"a\":3}", "{\"a\":3,\"b\":2}"},
    };
    CHECK_PAIRS(*state, pairs);
}

static void empty_arrays_stay_arrays(void **state)
{
    static const struct pair pairs[] = {
        {"[]", NULL},
        {" [ \n ] ", "[]"},
        {"\xef\xbb\xbf[]", "[]"},
        {"[[],{},[[]],[{}]]", NULL},
        {"{\"a\":[],\"b\":{},\"c\":{\"d\":[]}}", NULL},
        {"[\"[]\",\"nan\",[],1.5,\"\\\"[]\"]", NULL},
        {"{\"a\":[],\"a\":1,\"b\":[]}", "{\"a\":1,\"b\":[]}"},
        {"{\"a\":1,\"a\":[]}", "{\"a\":[]}"},
        {"[[],12345678901234567890,[]]", "[[],\"12345678901234567890\",[]]"},
    };
    CHECK_PAIRS(*state, pairs);
    check_lua(*state, "local t = json.decode '{\"a\":[], \"b\":{}}'\n"
                      "assert(type(t.a) == 'table' and next(t.a) == nil and #t.a == 0)\n"
                      "assert(getmetatable(t.b) == nil and t.a ~= json.decode '[]')\n"
                      "t.a[1] = 'x'; assert(json.encode(t) == '{\"a\":[\"x\"],\"b\":{}}')\n"
                      "t.a = {}; assert(json.encode(t) == '{\"a\":{},\"b\":{}}')");
}

static void many_empty_arrays_stay_arrays(void **state)
{
    struct bytes text;
    bytes_init(&text, 0);
    for (int i = 0; i < 10000; i++)
        assert_int_equal(bytes_append(&text, i ? ",{\"a\":[]}" : "[{\"a\":[]}", 9), 0);
    assert_int_equal(bytes_append(&text, "]", 2), 0);
    check_again(*state, text.data, text.len - 1, text.data);
    bytes_deinit(&text);
}

static void arrays_can_be_marked(void **state)
{
    check_encoded(*state, "return json.array()", "[]", NULL);
    check_encoded(*state, "local t = {}; assert(json.array(t) == t); return json.array(t)", "[]",
                  NULL);
    check_encoded(*state, "return {json.array {}, {}, json.array {1}}", "[[],{},[1]]", NULL);
    check_lua(*state, "assert(not pcall(json.array, 1))\n"
                      "assert(not pcall(json.array, setmetatable({}, {})))");
}

static void integers_keep_every_digit(void **state)
{
    static const struct pair pairs[] = {
        {"[1,-1,123456789012345,9007199254740991,-9007199254740992]", NULL},
        {"9007199254740992", NULL},
        {"9007199254740993", "\"9007199254740993\""},
        {"-9007199254740993", "\"-9007199254740993\""},
        {"[10000000000000000]", "[\"10000000000000000\"]"},
        {"{\"id\":-12345678901234567890123}", "{\"id\":\"-12345678901234567890123\"}"},
        {"[9223372036854775807,2]", "[\"9223372036854775807\",2]"},
    };
    CHECK_PAIRS(*state, pairs);
}

static void numbers_beyond_a_double_become_strings(void **state)
{
    static const struct pair pairs[] = {
        {"[1e400,-1E+309]", "[\"1e400\",\"-1E+309\"]"},
        {"1.7976931348623157e308", "1.7976931348623157e+308"},
        {"1.7976931348623159e308", "\"1.7976931348623159e308\""},
        {"17976931348623157.0e292", "1.7976931348623157e+308"},
        {"0.00001e310", "1e+305"},
        {"0e99999999999999999999", "0"},
        {"1e99999999999999999999", "\"1e99999999999999999999\""},
        {"1e-99999999999999999999", "0"},
    };
    CHECK_PAIRS(*state, pairs);

    char digits[400];
    memset(digits, '9', sizeof digits);
    memcpy(digits + sizeof digits - 8, ".5e-390", 8);
    lua_pushstring(*state, digits);
    call(*state, "decode");
    assert_true(lua_type(*state, -2) == LUA_TNUMBER);
    assert_true(lua_tonumber(*state, -2) == strtod(digits, NULL));
}

static void numbers_come_back_equal(void **state)
{
    static const struct pair pairs[] = {
        {"[0.1,-0.25,98.6,1e-7,1E3,2e+2]", "[0.1,-0.25,98.6,0.0000001,1000,200]"},
        {"-0", "-0.0"},
        {"[-0.0,0.0]", "[-0.0,0]"},
        {"0.30000000000000004", NULL},
        {"0.3333333333333333", NULL},
        {"3.141592653589793", NULL},
        {"1e23", "1e+23"},
        {"5e-324", "4.94065645841247e-324"},
        {"2.2250738585072014e-308", NULL},
        {"9007199254740994.0", NULL}, /* as an integer it would be decoded to a string */
        {"12345678901234567000.0", "1.2345678901234567e+19"},
        {"1e16", "1e+16"},
    };
    CHECK_PAIRS(*state, pairs);
}

static void any_double_comes_back_equal(void **state)
{
    lua_State *L = *state;
    uint64_t seed = 1;
    for (int i = 0; i < 60000; i++) {
        double x;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        if (i % 3 == 0)
            memcpy(&x, &seed, sizeof x);
        else if (i % 3 == 1)
            x = (double)(int64_t)seed / 0x1p43;
        else
            x = (double)(int32_t)(seed >> 32) / pow(10, (double)(seed % 20));
        if (!isfinite(x))
            continue;
        lua_pushnumber(L, x);
        call(L, "encode");
        lua_pop(L, 1);
        call(L, "decode");
        assert_int_equal(lua_type(L, -2), LUA_TNUMBER);
        assert_true(lua_tonumber(L, -2) == x);
        lua_settop(L, 0);
    }
}

static void bad_text_is_refused_with_its_position(void **state)
{
    check_refused(*state, "", 0, "line 1, byte 1: expected a value, but the text ends");
    check_refused(*state, "[1,\n \"\xff\"]", 9, "line 2, byte 3: invalid UTF-8");
    check_refused(*state, "[[],99999999999999999999,]", 26, "line 1, byte 26: expected a value");
    check_refused(*state, "[1]\0", 4, "line 1, byte 4: text after the end of the value");
}

/* Strings are read 8 bytes at a time: whatever ends that must be seen at every position. */
static void special_bytes_are_seen_at_every_position(void **state)
{
    char text[40];
    for (size_t at = 1; at < 30; at++) {
        for (int c = 0; c < 256; c++) {
            memset(text, 'x', sizeof text);
            text[0] = text[31] = '"';
            text[at] = (char)c;
            lua_pushlstring(*state, text, 32);
            call(*state, "decode");
            bool plain = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
            assert_int_equal(lua_isstring(*state, -2), plain);
            if (plain)
                check_text(*state, -2, text + 1, 30);
            lua_settop(*state, 0);

            text[30] = '\0';
            lua_pushlstring(*state, text + 1, 29);
            call(*state, "encode");
            assert_int_equal(lua_isstring(*state, -2), c < 0x80);
            if (plain) {
                text[30] = '"';
                check_text(*state, -2, text, 31);
            }
            lua_settop(*state, 0);
        }
    }
}

static size_t utf8(char *to, unsigned code)
{
    if (code < 0x800) {
        to[0] = (char)(0xc0 | code >> 6);
        to[1] = (char)(0x80 | (code & 63));
        return 2;
    }
    if (code < 0x10000) {
        to[0] = (char)(0xe0 | code >> 12);
        to[1] = (char)(0x80 | (code >> 6 & 63));
        to[2] = (char)(0x80 | (code & 63));
        return 3;
    }
    to[0] = (char)(0xf0 | code >> 18);
    to[1] = (char)(0x80 | (code >> 12 & 63));
    to[2] = (char)(0x80 | (code >> 6 & 63));
    to[3] = (char)(0x80 | (code & 63));
    return 4;
}

static void every_character_comes_back(void **state)
{
    struct bytes text;
    bytes_init(&text, 0);
    assert_int_equal(bytes_append(&text, "\"", 1), 0);
    for (unsigned code = 0x80; code <= 0x10ffff; code++) {
        char c[4];
        if (code < 0xd800 || code > 0xdfff)
            assert_int_equal(bytes_append(&text, c, utf8(c, code)), 0);
    }
    assert_int_equal(bytes_append(&text, "\"", 2), 0);
    check_again(*state, text.data, text.len - 1, text.data);
    bytes_deinit(&text);
}

/* Every pair of bytes followed by up to two continuation bytes: valid only if it is what `utf8`
 * makes of the number the bits spell, and no surrogate. */
static void everything_else_is_not_utf8(void **state)
{
    lua_State *L = *state;
    for (unsigned first = 0x80; first < 0x100; first++) {
        for (unsigned second = 0; second < 0x100; second++) {
            size_t len = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
            char text[] = {'"', (char)first, (char)second, (char)0x80, (char)0x80, '"', '\0'};
            char again[4] = {0};
            unsigned code = first & (0xffu >> (len + 1));
            for (size_t i = 1; i < len; i++)
                code = code << 6 | ((unsigned char)text[1 + i] & 63);
            bool valid = code >= 0x80 && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) &&
                         utf8(again, code) == len && memcmp(again, text + 1, len) == 0;
            text[1 + len] = '"';
            lua_pushlstring(L, text, len + 2);
            call(L, "decode");
            assert_int_equal(lua_isstring(L, -2), valid);
            lua_pushlstring(L, text + 1, len);
            call(L, "encode");
            assert_int_equal(lua_isstring(L, -2), valid);
            lua_settop(L, 0);
        }
    }
}

static void nesting_is_limited(void **state)
{
    lua_State *L = *state;
    struct bytes text;
    bytes_init(&text, 0);
    static const char *const brackets[] = {"[]", "{}"};
    for (size_t kind = 0; kind < 2; kind++) {
        bytes_clear(&text);
        for (int i = 0; i < DEPTH - 1; i++)
            assert_int_equal(bytes_append(&text, kind ? "{\"a\":" : "[", kind ? 5 : 1), 0);
        assert_int_equal(bytes_append(&text, brackets[kind], 2), 0);
        for (int i = 0; i < DEPTH - 1; i++)
            assert_int_equal(bytes_append(&text, &brackets[kind][1], 1), 0);
        assert_int_equal(bytes_append(&text, "", 1), 0);
        check_again(L, text.data, text.len - 1, text.data);

        lua_pushstring(L, text.data);
        call(L, "decode");
        lua_pop(L, 1);
        lua_createtable(L, 1, 0);
        lua_insert(L, -2);
        lua_rawseti(L, -2, 1);
        call(L, "encode");
        assert_true(lua_isnil(L, -2));
        assert_non_null(strstr(lua_tostring(L, -1), ": nested deeper than 1000 (a cycle?)"));
        assert_true(lua_objlen(L, -1) < 300);
        lua_settop(L, 0);
    }
    bytes_clear(&text);
    for (int i = 0; i < 100000; i++)
        assert_int_equal(bytes_append(&text, "[", 1), 0);
    check_refused(L, text.data, text.len, "line 1, byte 1001: nested deeper than 1000");
    bytes_deinit(&text);

    check_encoded(L, "return json.decode('[' .. ('[],'):rep(2000) .. '1]')[2001]", "1", NULL);
    check_lua(L, "local t = {}; t.t = t; local text, message = json.encode(t)\n"
                 "assert(text == nil and message:find '^at %.t%.t%.t')");
}

static void keys_are_sorted_by_their_bytes(void **state)
{
    check_encoded(*state, "return {b=1, a=2, ab=3, B=4, ['\\195\\169']=5, ['']=6, ['a\\1']=7}",
                  "{\"\":6,\"B\":4,\"a\":2,\"a\\u0001\":7,\"ab\":3,\"b\":1,\"\xc3\xa9\":5}", NULL);
    check_encoded(*state,
                  "return {abcdefghi=1, abcdefgh=2, abcdefghb=3, abcdefg=4, ['abcdefg\\0']=5}",
                  "{\"abcdefg\":4,\"abcdefg\\u0000\":5,\"abcdefgh\":2,\"abcdefghb\":3,"
                  "\"abcdefghi\":1}",
                  NULL);
    check_lua(*state,
              "for _, n in ipairs {1, 2, 30, 39, 40, 41, 42, 1000, 20000} do\n"
              "  local t, keys, want = {}, {}, {}\n"
              "  for i = 1, n do\n"
              "    local key = ('%s%d'):format(i % 2 == 0 and 'a long common start' or '', i * 7)\n"
              "    t[key], keys[i] = {z = i, y = i}, key\n"
              "  end\n"
              "  table.sort(keys)\n"
              "  for i, key in ipairs(keys) do\n"
              "    want[i] = ('\"%s\":{\"y\":%d,\"z\":%d}'):format(key, t[key].y, t[key].y)\n"
              "  end\n"
              "  assert(json.encode(t) == '{' .. table.concat(want, ',') .. '}')\n"
              "end");
}

static void tables_are_arrays_or_objects(void **state)
{
    check_encoded(*state, "return {}", "{}", NULL);
    check_encoded(*state, "return {1, 2, {}}", "[1,2,{}]", NULL);
    check_encoded(*state, "local t = {}; for i = 5, 1, -1 do t[i] = i end; return t", "[1,2,3,4,5]",
                  NULL);
    check_encoded(*state, "return {a = {b = {1, json.null}}}", "{\"a\":{\"b\":[1,null]}}", NULL);
    check_encoded(*state, "return {['1'] = 'a string'}", "{\"1\":\"a string\"}", NULL);
    check_encoded(*state,
                  "return setmetatable({x = 1}, {__index = error, __len = error, __pairs = error,\n"
                  "__tostring = error, __metatable = false})",
                  "{\"x\":1}", NULL);
}

static void secrets_are_not_shown(void **state)
{
    check_encoded(*state, "return {token = setmetatable({'abc'}, {__metatable = 'secret'})}",
                  "{\"token\":\"***\"}", NULL);
    check_encoded(*state, "return setmetatable({'abc'}, {__metatable = 'other'})", "[\"abc\"]",
                  NULL);
}

static void what_has_no_json_form_is_refused_with_its_path(void **state)
{
    static const struct {
        const char *code, *message;
    } cases[] = {
        {"return nil", "a value of type nil has no JSON form"},
        {"return print", "a value of type function has no JSON form"},
        {"return {io.stdout}", "at [1]: a value of type userdata has no JSON form"},
        {"return {x = coroutine.create(print)}", "at .x: a value of type thread has no JSON form"},
        {"return {x = 2LL}", "at .x: a value of type cdata has no JSON form"},
        {"return 0/0", "nan has no JSON form"},
        {"return {a = {-1/0}}", "at .a[1]: an infinite number has no JSON form"},
        {"return {items = {1, 2, {name = 1/0}}}",
         "at .items[3].name: an infinite number has no JSON form"},
        {"return {1, 2, x = 3}", "the table has both string and number keys"},
        {"return {a = {x = 1, [7] = 2}}", "at .a: the table has both string and number keys"},
        {"return {[true] = 1}", "the table has a key of type boolean"},
        {"return {1, [print] = 1}", "the table has a key of type function"},
        {"return {1, nil, 3}", "the number keys are not 1, 2, 3 and so on without a gap"},
        {"return {[0] = 1}", "the number keys are not 1, 2, 3 and so on without a gap"},
        {"return {[-1] = 1}", "the number keys are not 1, 2, 3 and so on without a gap"},
        {"return {[-1] = 1, [2] = 1}", "the number keys are not 1, 2, 3 and so on without a gap"},
        {"return {1, [1.5] = 1, [3] = 1}",
         "the number keys are not 1, 2, 3 and so on without a gap"},
        {"return {1, 2, [2.5] = 1}", "the number keys are not 1, 2, 3 and so on without a gap"},
        {"return {[1e15] = 1}", "the number keys are not 1, 2, 3 and so on without a gap"},
        {"return {[1/0] = 1}", "the number keys are not 1, 2, 3 and so on without a gap"},
        {"return {'\\255'}", "at [1]: the string is not valid UTF-8"},
        {"return {['k\\255'] = 1}", "at .k\xff: the string is not valid UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_encoded(*state, cases[i].code, NULL, cases[i].message);
}

static void misuse_raises(void **state)
{
    check_lua(*state, "for _, v in ipairs {1, true, {}, print} do\n"
                      "  local ok, message = pcall(json.decode, v)\n"
                      "  assert(not ok and message:find 'string expected')\n"
                      "end\n"
                      "assert(not pcall(json.decode) and not pcall(json.encode))");
}

static void a_failed_call_leaves_nothing_behind(void **state)
{
    check_lua(*state, "for i = 1, 3 do\n"
                      "  assert(not json.decode '[[],[],99999999999999999999,}')\n"
                      "  assert(json.encode(json.decode '[[],1]') == '[[],1]')\n"
                      "  assert(not json.encode {a = {b = {c = {print}}}, d = 1})\n"
                      "  assert(json.encode {b = 1, a = {c = 2}} == '{\"a\":{\"c\":2},\"b\":1}')\n"
                      "end\n"
                      "local big = ('x'):rep(3000000)\n"
                      "assert(json.encode(big) == '\"' .. big .. '\"')\n"
                      "assert(json.decode('[[],\"' .. big .. '\"]')[2] == big)");
}

/* Finalizers run while a call is under way, and may call too. */
static void a_finalizer_may_use_json(void **state)
{
    check_lua(*state, "collectgarbage('setpause', 1)\n"
                      "local calls = 0\n"
                      "local function litter()\n"
                      "  getmetatable(newproxy(true)).__gc = function()\n"
                      "    calls = calls + 1\n"
                      "    assert(json.encode {b = 'y', a = {('x'):rep(3000)}} ==\n"
                      "           '{\"a\":[\"' .. ('x'):rep(3000) .. '\"],\"b\":\"y\"}')\n"
                      "    assert(json.encode(json.decode '[[],12345678901234567890]') ==\n"
                      "           '[[],\"12345678901234567890\"]')\n"
                      "  end\n"
                      "end\n"
                      "local object, list = {}, {}\n"
                      "for i = 1, 200 do object['key' .. i], list[i] = i, '[]' end\n"
                      "local text = json.encode(object)\n"
                      "local lists = '[' .. table.concat(list, ',') .. ']'\n"
                      "for i = 1, 300 do\n"
                      "  for _ = 1, 10 do litter() end\n"
                      "  assert(json.encode(object) == text)\n"
                      "  assert(json.encode(json.decode(lists)) == lists)\n"
                      "end\n"
                      "assert(calls > 100)");
}

/* An allocator that can be told to fail. */
struct memory {
    size_t used;
    long left; /* allocations until the one that fails; below 0 = none will */
};

static void *allocate(void *ctx, void *p, size_t old, size_t size)
{
    struct memory *m = ctx;
    if (size == 0) {
        m->used -= old;
        free(p);
        return NULL;
    }
    if (size > old && m->left >= 0 && m->left-- == 0)
        return NULL;
    void *moved = realloc(p, size);
    if (moved)
        m->used += size - (p ? old : 0);
    return moved;
}

static void running_out_of_memory_raises_and_loses_nothing(void **state)
{
    (void)state;
    struct memory memory = {.left = -1};
    lua_State *L = lua_newstate(allocate, &memory);
    assert_non_null(L);
    open_json(L);
    int failures = 0;
    bool done = false;
    for (long n = 0; !done; n++) {
        check_lua(L, "value = {list = {1, 2, {x = ('y'):rep(100)}}, name = 'z' .. math.random()}");
        lua_getglobal(L, "json");
        lua_getfield(L, -1, "encode");
        lua_getglobal(L, "value");
        lua_gc(L, LUA_GCCOLLECT, 0);
        memory.left = n;
        int rc = lua_pcall(L, 1, 1, 0);
        memory.left = -1;
        assert_true(rc == 0 || rc == LUA_ERRMEM);
        done = rc == 0;
        failures += rc != 0;
        lua_settop(L, 0);
        check_encoded(L, "return {b = 1, a = {}}", "{\"a\":{},\"b\":1}", NULL);
    }
    assert_true(failures > 0);
    lua_close(L);
    assert_int_equal(memory.used, 0);
}

/* What cjson holds meanwhile is no memory of Lua's: that it is freed shows with ASan. */
static void running_out_of_memory_while_decoding_loses_nothing(void **state)
{
    static const char text[] = "{\"a\":[],\"b\":[1,2,{\"c\":\"text\"}]}";
    (void)state;
    struct memory memory = {.left = -1};
    lua_State *L = lua_newstate(allocate, &memory);
    assert_non_null(L);
    open_json(L);
    int failures = 0;
    bool done = false;
    for (long n = 0; !done; n++) {
        lua_getglobal(L, "json");
        lua_getfield(L, -1, "decode");
        lua_pushstring(L, text);
        lua_gc(L, LUA_GCCOLLECT, 0);
        memory.left = n;
        done = lua_pcall(L, 1, 1, 0) == 0;
        memory.left = -1;
        failures += !done;
        if (!done)
            assert_string_equal(lua_tostring(L, -1), "not enough memory");
        lua_settop(L, 0);
        check_again(L, text, strlen(text), text);
    }
    assert_true(failures > 3);
    lua_close(L);
    assert_int_equal(memory.used, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(values_come_back_equal),
        TEST(empty_arrays_stay_arrays),
        TEST(many_empty_arrays_stay_arrays),
        TEST(arrays_can_be_marked),
        TEST(integers_keep_every_digit),
        TEST(numbers_beyond_a_double_become_strings),
        TEST(numbers_come_back_equal),
        TEST(any_double_comes_back_equal),
        TEST(bad_text_is_refused_with_its_position),
        TEST(special_bytes_are_seen_at_every_position),
        TEST(every_character_comes_back),
        TEST(everything_else_is_not_utf8),
        TEST(nesting_is_limited),
        TEST(keys_are_sorted_by_their_bytes),
        TEST(tables_are_arrays_or_objects),
        TEST(secrets_are_not_shown),
        TEST(what_has_no_json_form_is_refused_with_its_path),
        TEST(misuse_raises),
        TEST(a_failed_call_leaves_nothing_behind),
        TEST(a_finalizer_may_use_json),
        cmocka_unit_test(running_out_of_memory_raises_and_loses_nothing),
        cmocka_unit_test(running_out_of_memory_while_decoding_loses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
