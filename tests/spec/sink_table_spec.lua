local case = require "table_case"
local json = require "orchestrator.json"
local schema = require "orchestrator.schema"
local secret = require "orchestrator.secret"
local sink_table = require "orchestrator.sink_table"

describe("sink_table", function()
  local dir, path

  before_each(function()
    dir = os.tmpname()
    os.remove(dir)
    os.execute("mkdir " .. dir)
    path = dir .. "/x.sqlite"
  end)

  after_each(function()
    os.execute("rm -rf " .. dir)
  end)

  local function query(sql, ...)
    return case.query(path, sql, ...)
  end

  -- What a query gives as one text: fields by "|", rows by " ".
  local function text(sql)
    local lines = {}
    for i, row in ipairs(query(sql)) do
      local fields = {}
      for k = 1, table.maxn(row) do fields[k] = row[k] == nil and "-" or tostring(row[k]) end
      lines[i] = table.concat(fields, "|")
    end
    return table.concat(lines, " ")
  end

  local function sql_of(name)
    return query("SELECT sql FROM sqlite_schema WHERE name = ?1", name)[1][1]
  end

  local function execute(...)
    local statements = { ... }
    for i, statement in ipairs(statements) do statements[i] = { statement } end
    local id = assert(case.host.store_open(path, { shared = true }))
    case.run(function(sched)
      local result = sched:run_job(id, statements)
      assert(not result.fault, result.message)
    end)
    case.host.store_close(id)
  end

  -- Runs a function with an open sink.
  local function with(given, more, fn)
    case.run(function(sched)
      local sink, err = case.open(sched, given, more)
      if not sink then error(err) end
      fn(sink)
      assert(sink:close())
    end)
  end

  local function refused(sink, record)
    local batch, err = sink:encode { record }
    assert.is_nil(batch)
    assert.equal("validation", err.kind)
    return err.message, err.fatal or false
  end

  describe("options", function()
    it("are those of a table", function()
      assert.same({ kind = "table", target = "a.sqlite", url = "a.sqlite" },
        sink_table.check "a.sqlite")
      assert.same({ kind = "table", target = "a.db", url = "a.db", table = "t", mode = "merge",
        primary_key = { "id" } },
        sink_table.check { "a.db", table = "t", mode = "merge", primary_key = "id" })
    end)

    it("are refused when they are none", function()
      for message, given in pairs {
        ['unknown option "tabel" (did you mean "table"?)'] = { "a.db", tabel = "x" },
        ['"table" must be a name'] = { "a.db", table = "" },
        ['"table" must not begin with "_orchestrator" or "_staging_"'] =
          { "a.db", table = "_Orchestrator" },
        ['"primary_key" must be a list of different names'] =
          { "a.db", mode = "merge", primary_key = { "a", "a" } },
        ['"primary_key" must name at least one column'] =
          { "a.db", mode = "merge", primary_key = {} },
        ['"mode" is "merge", so "primary_key" must say what tells rows apart'] =
          { "a.db", mode = "merge" },
        ['"primary_key" is for the modes "merge" and "replace"'] =
          { "a.db", mode = "append", primary_key = { "id" } },
        ['"mode" must be "replace", "append" or "merge", got "upsert"'] =
          { "a.db", mode = "upsert" },
      } do
        local ok, problem = pcall(sink_table.check, given)
        assert.is_false(ok)
        assert.truthy(tostring(problem):find(message, 1, true), problem)
      end
      local spec, problem = sink_table.check "out/{nmae}.db"
      assert.is_nil(spec)
      assert.truthy(problem:find "did you mean {name}")
    end)

    it("show no password", function()
      for _, given in ipairs {
        "postgres://me:s3cret-word@db/x?sslmode=disable",
        secret.value "postgresql://me@db/x?password=s3cret-word",
        { secret.value "postgres://me:s3cret-word@db/x", table = "t" },
      } do
        local spec = assert(sink_table.check(given))
        assert.is_nil(spec.target:find("s3cret", 1, true), spec.target)
        assert.truthy(spec.target:find "^postgres")
      end
      assert.equal("***", secret.mask "s3cret-word")
      local spec, problem = sink_table.check "postgres://me@db/x?nonsense=1"
      assert.is_nil(spec)
      assert.truthy(problem:find "nonsense")
    end)
  end)

  it("makes columns of what there is, wider when more comes", function()
    case.load(path, { mode = "append" },
      { { id = 1, flag = true, name = "a" }, { id = 2, name = "b", price = 3 } },
      { { id = 3, price = 1.5, tags = { "x", { y = json.null } } } },
      { { id = "four", flag = 7, price = json.null, late = "yes" } })
    assert.equal('CREATE TABLE "items" ("flag" INTEGER, "id" TEXT, "name" TEXT, "price" REAL, '
      .. '"tags" TEXT, "late" TEXT)', sql_of "items")
    assert.equal('1|1|a 2|b|3 3|1.5|["x",{"y":null}] four|7|yes',
      (text "SELECT id, flag, name, price, tags, late FROM items":gsub("|%-", ""):gsub("%-|", "")))
  end)

  it("keeps the values of columns that become wider", function()
    case.load(path, { mode = "append" }, {
      { a = 1, b = 0.1, c = true }, { a = -3, b = 1e300, c = false },
      { a = 2 ^ 53, b = 5, c = true },
    }, { { a = "x", b = "y", c = 1.5 } })
    assert.equal("1|0.1|1.0 -3|1e+300|0.0 9007199254740992|5|1.0 x|y|1.5",
      text "SELECT a, b, CAST(c AS TEXT) FROM items")
    assert.equal('CREATE TABLE "items" ("a" TEXT, "b" TEXT, "c" REAL)', sql_of "items")
  end)

  it("keeps indexes and triggers of a table that becomes wider", function()
    case.load(path, { mode = "append" }, { { id = 1, v = 1 } })
    execute("CREATE INDEX by_v ON items(v)", "CREATE TABLE log(id)",
      "CREATE TRIGGER t AFTER INSERT ON items BEGIN INSERT INTO log VALUES(new.id); END",
      "CREATE VIEW seen AS SELECT id FROM items")
    case.load(path, { mode = "append", run_id = "run2" }, { { id = 2, v = "007" } })
    assert.equal("1|1 2|007", text "SELECT id, v FROM items")
    assert.equal("2", text "SELECT id FROM log")
    assert.equal("1 2", text "SELECT id FROM seen")
    assert.equal("by_v", text "SELECT name FROM sqlite_schema WHERE type = 'index' AND sql <> ''")
  end)

  it("does not make a table anew that is not of its making", function()
    execute "CREATE TABLE items(id INTEGER PRIMARY KEY, v INTEGER CHECK(v > 0), w NUMERIC, b BLOB)"
    with(path, { mode = "append" }, function(sink)
      case.put(sink, { { id = 1, v = 1, w = "2026-01-02", b = { 1 } } })
      local batch = assert(sink:encode { { id = 2, v = "007" } })
      local position, err = sink:commit { number = 2, batches = { batch }, records = 1 }
      assert.is_nil(position)
      assert.truthy(err.message:find('the column "v" of "items" is INTEGER', 1, true), err.message)
    end)
    assert.equal("1|1|2026-01-02|[1]", text "SELECT * FROM items")
  end)

  it("adds columns to a table with defaults of its own, and leaves those to it", function()
    execute "CREATE TABLE items(id INTEGER PRIMARY KEY, at TEXT DEFAULT 'now', Name VARCHAR(9))"
    case.load(path, { mode = "append" }, { { name = "a" }, { NAME = "b", more = 1 } },
      { { at = "then", name = "c" } })
    assert.equal("1|now|a|- 2|now|b|1 3|then|c|-",
      (text "SELECT id, at, name, ifnull(more, '-') FROM items"))
    assert.equal(4, #query "SELECT * FROM pragma_table_info('items')")
  end)

  it("has names that are nothing but names", function()
    local name = 'x"; DROP TABLE items;--'
    case.load(path, nil, { { id = 1 } })
    case.load({ path, table = name }, nil, { { [name] = 1, ["a b"] = 2, select = 3, ["ä"] = 4 } })
    assert.equal("1", text "SELECT id FROM items")
    assert.equal("1|2|3|4", text('SELECT "x""; DROP TABLE items;--", "a b", "select", "ä" FROM '
      .. '"x""; DROP TABLE items;--"'))
  end)

  it("takes names that differ in case alone for one column, as SQLite does", function()
    with(path, nil, function(sink)
      case.put(sink, { { Id = 1 }, { ID = 2 }, { id = 3 } })
      assert.equal("at .ID: another name in the record is that of the same column",
        (refused(sink, { ID = 1, Id = 2 }):gsub("%.I[dD]", ".ID")))
      assert(sink:finish())
    end)
    assert.equal("1 2 3", text "SELECT id FROM items")
  end)

  it("keeps numbers and texts as they are", function()
    local numbers = { 0.1, 1e300, 5e-324, -0.5, 2 ^ 53, 123456789012345678, 1.7976931348623157e308 }
    local records = {}
    for i, number in ipairs(numbers) do records[i] = { i = i, v = number } end
    records[#records + 1] = { i = 9, t = "a\0b" }
    records[#records + 1] = { i = 10, t = "9007199254740993" }
    records[#records + 1] = { i = 11, t = "2026-11-22T05:30:15Z" }
    records[#records + 1] = { i = 12, t = "" }
    case.load(path, nil, records)
    for i, row in ipairs(query "SELECT v FROM items WHERE i < 8 ORDER BY i") do
      assert.equal(numbers[i], row[1])
    end
    local texts = query "SELECT t, typeof(t) FROM items WHERE i > 8 ORDER BY i"
    assert.same({ { "a\0b", "text" }, { "9007199254740993", "text" },
      { "2026-11-22T05:30:15Z", "text" }, { "", "text" } }, texts)
  end)

  it("shows no password of a server's URL", function()
    local check = require("orchestrator.sink").check
    local rest = "@127.0.0.1:1/db?connect_timeout=3"
    for _, password in ipairs { "hunter2", "hunter2?x", "hunter2%3Fx", "hunter2#x", "hunter2 x" } do
      local spec = assert(check("postgres://u:" .. password .. rest))
      assert.equal("postgres://***@127.0.0.1:1/db", spec.target)
    end
    assert.equal("postgres://127.0.0.1:1/db", check("postgres://127.0.0.1:1/db?user=a@b").target)
    for _, password in ipairs { "hunter2/x", "hunter2%zz", "hunter2?/x" } do
      local spec, problem = check("postgres://u:" .. password .. rest)
      assert.is_nil(spec)
      assert.is_nil(problem:find "hunter2", problem)
    end
  end)

  it("refuses records that cannot be in a table", function()
    with(path, nil, function(sink)
      assert.equal("at .a: the string is not valid UTF-8", (refused(sink, { a = "\255" })))
      assert.equal("at .a: it is not a number", (refused(sink, { a = 0 / 0 })))
      assert.equal("a column cannot have an empty name", (refused(sink, { [""] = 1 })))
      assert.equal("a column's name cannot have a NUL byte", (refused(sink, { ["a\0"] = 1 })))
      assert.equal("a column's name must be UTF-8", (refused(sink, { ["\255"] = 1 })))
      assert.truthy(refused(sink, { 1, 2 }):find "is a list")
      local wide = {}
      for i = 1, 2001 do wide["c" .. i] = i end
      assert.truthy(refused(sink, wide):find "more than 2000 different names")
      case.put(sink, { { d = 1 } }) -- its names are in the way of no others
      assert(sink:finish())
    end)
  end)

  describe("replace", function()
    it("leaves the old rows until the end", function()
      case.load(path, nil, { { id = 1 } })
      with(path, { run_id = "run2" }, function(sink)
        case.put(sink, { { id = 2 }, { id = 3 } })
        assert.equal("1", text "SELECT id FROM items")
        assert(sink:finish())
        assert.equal("2 3", text "SELECT id FROM items")
        assert(sink:finish()) -- once more
        assert.equal("2 3", text "SELECT id FROM items")
      end)
      assert.equal("", text "SELECT name FROM sqlite_schema WHERE name GLOB '_staging*'")
    end)

    it("keeps all of a table but its rows", function()
      execute("CREATE TABLE items(id INTEGER PRIMARY KEY, old TEXT, v INTEGER)",
        "CREATE INDEX by_v ON items(v)", "INSERT INTO items VALUES(1, 'x', 2)",
        "CREATE VIEW seen AS SELECT v FROM items")
      case.load(path, nil, { { id = 5, v = 6, more = "m" } })
      assert.equal("5|-|6|m", (text "SELECT id, ifnull(old, '-'), v, more FROM items"))
      assert.equal("6", text "SELECT v FROM seen")
      assert.equal("by_v", text "SELECT name FROM sqlite_schema WHERE name = 'by_v'")
    end)

    it("empties the table when there are no records", function()
      case.load(path, nil, { { id = 1 } })
      case.load(path, { run_id = "run2" })
      assert.equal("", text "SELECT id FROM items")
      case.load({ path, table = "none" }, { run_id = "run3" })
      assert.equal("", text "SELECT name FROM sqlite_schema WHERE name = 'none'")
    end)

    it("has the last record of each key", function()
      case.load({ path, primary_key = { "a", "b" } }, nil, { { a = 1, b = 1, v = 1 } },
        { { a = 1, b = 2, v = 2 }, { a = 1, b = 1, v = 3 } })
      assert.equal("1|1|3 1|2|2", text "SELECT a, b, v FROM items ORDER BY a, b")
    end)

    it("drops what an unfinished run has left", function()
      with(path, nil, function(sink) case.put(sink, { { id = 1, gone = 1 } }) end)
      case.load(path, { run_id = "run2" }, { { id = 2 } })
      assert.equal('CREATE TABLE "items" ("id" INTEGER)', sql_of "items")
    end)
  end)

  describe("merge", function()
    local given

    before_each(function() given = { path, mode = "merge", primary_key = "id" } end)

    it("puts records in the place of those with the same key", function()
      case.load(given, nil, { { id = 1, v = "a", w = 1 }, { id = 2, v = "b" } })
      case.load(given, { run_id = "run2" }, { { id = 2, v = "c" }, { id = 3 } },
        { { id = 1, v = "d" } })
      assert.equal("1|d 2|c 3", (text "SELECT id, v, w FROM items ORDER BY id":gsub("|%-", "")))
      assert.truthy(sql_of "items":find('"id" INTEGER NOT NULL', 1, true))
    end)

    it("wants the key in every record", function()
      with(given, nil, function(sink)
        assert.equal('the key "id" is missing', (refused(sink, { v = 1 })))
        assert.equal('the key "id" is missing', (refused(sink, { id = json.null })))
      end)
    end)

    it("lets a key become wider", function()
      case.load(given, nil, { { id = 1, v = 1 } }, { { id = "x", v = 2 }, { id = 1.5, v = 3 } },
        { { id = "1", v = 4 } })
      assert.equal("1|4 1.5|3 x|2", text "SELECT id, v FROM items ORDER BY id")
    end)

    it("says what to do about a table without the key", function()
      execute "CREATE TABLE items(id INTEGER, v)"
      with(given, nil, function(sink)
        local batch = assert(sink:encode { { id = 1 } })
        local position, err = sink:commit { number = 1, batches = { batch }, records = 1 }
        assert.is_nil(position)
        assert.truthy(err.message:find "ON CONFLICT clause", err.message)
      end)
    end)
  end)

  describe("schema", function()
    local function compiled(opts)
      return { schema = schema.compile(opts), mode = "append" }
    end

    it("says what the columns are", function()
      case.load(path, compiled { columns = {
        id = "integer", at = "timestamp", price = "number", ok = "boolean", doc = "json",
      } }, {
        { id = "9223372036854775807", at = "2026-11-22T05:30:15Z", price = 5, ok = true,
          doc = "x" },
        { id = -5, more = "m", doc = { 1 } },
      })
      assert.equal('CREATE TABLE "items" ("at" TEXT, "doc" TEXT, "id" INTEGER, "ok" BOOLEAN, '
        .. '"price" REAL, "more" TEXT)', sql_of "items")
      assert.equal('9223372036854775807|integer|2026-11-22T05:30:15Z|5.0|1|"x" '
        .. '-5|integer|-|-|-|[1]', text("SELECT id, typeof(id), ifnull(at, '-'), "
        .. "ifnull(CAST(price AS TEXT), '-'), ifnull(ok, '-'), doc FROM items"))
    end)

    it("refuses a value that its column does not hold", function()
      with(path, compiled { columns = { price = "number" } }, function(sink)
        assert.equal('"price" is a text, and its column in "items" holds real',
          (refused(sink, { price = "9007199254740993" })))
      end)
    end)

    it("can keep other columns out", function()
      execute "CREATE TABLE items(id INTEGER, v TEXT)"
      with(path, compiled { contract = "discard_row" }, function(sink)
        local message, fatal = refused(sink, { id = 1, new = 2 })
        assert.equal('the table "items" has no column "new"', message)
        assert.is_false(fatal)
        assert.is_truthy(sink:encode { { id = 1, new = json.null } })
        assert.equal('"id" is a text, and its column in "items" holds integer',
          (refused(sink, { id = "x" })))
        case.put(sink, { { id = 1, v = 7 } })
      end)
      assert.equal("1|7", text "SELECT * FROM items")
    end)

    it("can fail for them", function()
      execute "CREATE TABLE items(id INTEGER, v TEXT)"
      with(path, compiled { contract = "freeze" }, function(sink)
        local message, fatal = refused(sink, { id = 1, new = 2 })
        assert.equal('the table "items" has no column "new"', message)
        assert.is_true(fatal)
        message, fatal = refused(sink, { id = 1.5 })
        assert.equal('"id" is a fraction, and its column in "items" holds integer', message)
        assert.is_true(fatal)
      end)
    end)

    it("can leave them out", function()
      execute "CREATE TABLE items(id INTEGER, v INTEGER)"
      with(path, compiled { contract = "discard_value" }, function(sink)
        case.put(sink, { { id = 1, v = "x", new = 2 }, { id = 2, v = 3 }, { id = 3, new = 1 } })
      end)
      assert.equal("1|- 2|3 3|-", text "SELECT id, ifnull(v, '-') FROM items")
      assert.equal("CREATE TABLE items(id INTEGER, v INTEGER)", sql_of "items")
    end)

    it("needs columns that are known to keep others out", function()
      case.run(function(sched)
        local sink, err = case.open(sched, path, compiled { contract = "freeze" })
        assert.is_nil(sink)
        assert.truthy(err.message:find 'by the contract "freeze" it cannot get columns')
      end)
      -- In a table that is replaced they are those it has.
      execute "CREATE TABLE items(id INTEGER, v TEXT, d INTEGER DEFAULT 5)"
      local more = compiled { contract = "discard_row" }
      more.mode = "replace"
      with(path, more, function(sink)
        assert.equal('the table "items" has no column "new"', (refused(sink, { id = 1, new = 2 })))
        case.put(sink, { { id = 1, v = 7 } })
        assert(sink:finish())
      end)
      assert.equal("1|7", text "SELECT id, v FROM items")
    end)
  end)

  describe("resume", function()
    it("goes on after what was committed", function()
      for _, mode in ipairs { "append", "replace" } do
        local more = { mode = mode, name = mode }
        with(path, more, function(sink)
          assert.same({ 0 }, { sink:carried() })
          assert.same({ window = 1, count = 2 }, case.put(sink, { { id = 1 }, { id = 2 } }))
          local batch = assert(sink:encode { { id = 3, v = "x" } })
          assert(sink:commit { number = 2, batches = { batch }, records = 1, entry = "second" })
        end)
        more.resume = { window = 1, count = 2 }
        with(path, more, function(sink)
          assert.same({ 2, "second" }, { sink:carried() })
          assert.equal(3, sink.count)
          -- What is there already is not written again.
          local batch = assert(sink:encode { { id = 3, v = "x" } })
          assert.same({ window = 2, count = 3 },
            sink:commit { number = 2, batches = { batch }, records = 1 })
          case.put(sink, { { id = 4 } })
          assert(sink:finish())
        end)
        assert.equal("1 2 3 4", text("SELECT id FROM " .. mode))
        more.finishing = true
        with(path, more, function(sink) assert(sink:finish()) end)
        assert.equal("1 2 3 4", text("SELECT id FROM " .. mode))
      end
    end)

    it("knows its run though the journal knows of no commit", function()
      local more = { mode = "append" }
      with(path, more, function(sink) case.put(sink, { { id = 1 } }) end)
      with(path, more, function(sink)
        assert.same({ 1, "entry" }, { sink:carried() })
      end)
    end)

    it("fails when the run is not the one it was", function()
      local more = { mode = "append", resume = { window = 1, count = 1 } }
      local function failure()
        return case.run(function(sched)
          local sink, err = case.open(sched, path, more)
          assert.is_nil(sink)
          return err.message
        end)
      end
      assert.truthy(failure():find("it is not there any more, and the run has written to it", 1,
        true))
      with(path, { mode = "append", run_id = "run0" }, function(sink)
        case.put(sink, { { id = 1 } })
      end)
      assert.truthy(failure():find("knows nothing of run run1, and another run", 1, true))
      execute "DELETE FROM _orchestrator"
      assert.truthy(failure():find("knows nothing of run run1;", 1, true))
    end)

    it("is taken over by no other run meanwhile", function()
      with(path, { mode = "append" }, function(sink)
        case.put(sink, { { id = 1 } })
        execute "UPDATE _orchestrator SET run = 'run2'"
        local batch = assert(sink:encode { { id = 2 } })
        local position, err = sink:commit { number = 2, batches = { batch }, records = 1 }
        assert.is_nil(position)
        assert.truthy(err.message:find "another run has taken the table over")
      end)
      assert.equal("1", text "SELECT id FROM items")
    end)

    it("writes a window that was noted down, though columns have other numbers now", function()
      local more, frozen = { mode = "append" }, nil
      with(path, more, function(sink)
        case.put(sink, { { z = 1 } })
        local first = assert(sink:encode { { z = 2, b = "x" }, { a = true } })
        local second = assert(sink:encode { { a = { 1 }, c = 0.5 } })
        frozen = sink:freeze { first, second }
      end)
      execute "ALTER TABLE items ADD COLUMN early TEXT"
      with(path, more, function(sink)
        case.put(sink, { { y = 1 } })
        assert.same({ window = 3, count = 5 },
          sink:commit { number = 3, batches = sink:thaw(frozen), records = 3 })
      end)
      assert.equal("1|-|-|-|- -|-|1|-|- 2|-|-|x|- -|1|-|-|- -|[1]|-|-|0.5",
        text [[SELECT ifnull(z, '-'), ifnull(a, '-'), ifnull(y, '-'), ifnull(b, '-'), ifnull(c, '-')
          FROM items]])
    end)
  end)

  describe("trouble", function()
    local function open_failure(target)
      return case.run(function(sched)
        local sink, err = case.open(sched, target, {})
        assert.is_nil(sink)
        assert.equal("invalid", err.kind)
        return err.message
      end)
    end

    it("is told with what to do about it", function()
      os.execute("printf 'no database at all, as anybody can see' > " .. path)
      assert.truthy(open_failure(path):find "move it away, or name another file")
      assert.truthy(open_failure(path .. "/x.db"):find "; see to that")
      os.remove(path)
      os.execute("ln -s elsewhere " .. path)
      assert.truthy(open_failure(path):find "symbolic link")
      os.remove(path)
      execute "CREATE VIEW items AS SELECT 1 AS id"
      assert.truthy(open_failure(path):find '"items" is a view; name another table')
    end)

    it("leaves a single file, and one in the mode it was in", function()
      case.load(path, nil, { { id = 1 } })
      local file = io.open(path, "rb")
      assert.equal("\1\1", file:read(20):sub(19))
      file:close()
      assert.is_nil(io.open(path .. "-wal"))
      execute "CREATE TABLE other(x)" -- leaves it in WAL mode
      case.load(path, { run_id = "run2" }, { { id = 2 } })
      file = io.open(path, "rb")
      assert.equal("\2\2", file:read(20):sub(19))
      file:close()
    end)
  end)
end)
