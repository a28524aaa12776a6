-- Runs the specs in the program's own Lua state. From the top of the checkout:
--   build/orc-lua tests/spec/run.lua                          all of them
--   build/orc-lua tests/spec/run.lua tests/spec/url_spec.lua  one, or whatever busted understands
package.path = "tests/spec/?.lua;" .. package.path
if #arg == 0 then
  arg[1] = "tests/spec" -- luacheck: globals arg
end
require "busted.runner" { standalone = false }
