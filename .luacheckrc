std = "luajit"
max_line_length = 100
include_files = { "lua", "pipelines", "tests" }
exclude_files = { "lua/meta", "build*" }
files["tests/spec"] = { std = "luajit+busted" }
files["pipelines"] = { read_globals = { "arg" } }
