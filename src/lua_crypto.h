/*
 * The Lua module `orchestrator.core.crypto`: what authentication needs, over OpenSSL's libcrypto.
 *
 *   hash(name, text)      -> raw bytes | nil, message
 *   hmac(name, key, text) -> raw bytes | nil, message
 *   random(n)             -> n unpredictable bytes | nil, message
 *   hex(text)             -> its bytes as hexadecimal digits in lower case
 *
 * Names: "md5", "sha256", "sha512-256". One that this OpenSSL does not provide (md5 under FIPS) is
 * nil and a message; any other name is misuse and raises.
 */
#ifndef LUA_CRYPTO_H
#define LUA_CRYPTO_H

struct lua_State;

int luaopen_orchestrator_core_crypto(struct lua_State *L);

#endif
