local body = require "orchestrator.body"
local errors = require "orchestrator.errors"
local redirect = require "orchestrator.redirect"
local request = require "orchestrator.request"
local secret = require "orchestrator.secret"

describe("body", function()
  local function plan_of(given, client)
    given.url = "https://a/"
    return assert(request.plan(request.defaults(client or {}, "1.2"), given))
  end

  local function content_type(plan)
    return ("\n" .. plan.headers):match "\n[Cc]ontent%-[Tt]ype: ([^\n]*)\n"
  end

  local function misuse(given)
    local ok, message = pcall(plan_of, given)
    assert.is_false(ok)
    return message
  end

  it("is one of five", function()
    local all = {
      { "json", {} }, { "form", {} }, { "body", "" }, { "file", "x" }, { "multipart", {} },
    }
    for i, one in ipairs(all) do
      for k = i + 1, #all do
        local other = all[k]
        assert.matches("request: " .. one[1] .. " and " .. other[1] .. " exclude each other",
          misuse { [one[1]] = one[2], [other[1]] = other[2] })
      end
    end
    assert.is_false(body.of(plan_of {}))
    assert.is_true(body.of(plan_of { body = "" }))
  end)

  describe("from a file", function()
    it("is posted as bytes, unless headers say what they are", function()
      local plan = plan_of { file = "data/x.csv" }
      assert.same({ "POST", "data/x.csv", "application/octet-stream" },
        { plan.method, plan.body_file, content_type(plan) })
      assert.is_nil(plan.body)
      plan = plan_of { file = "x", method = "put", headers = { ["content-type"] = "text/csv" } }
      assert.same({ "PUT", "text/csv" }, { plan.method, content_type(plan) })
      assert.equal("text/csv", content_type(plan_of({ file = "x" },
        { headers = { ["Content-Type"] = "text/csv" } })))
      assert.is_nil(content_type(plan_of { file = "x", headers = { ["Content-Type"] = false } }))
    end)

    it("has a path", function()
      for _, path in ipairs { "", "a\0b" } do
        assert.matches('request: "file" must be the path of a file', misuse { file = path })
      end
      assert.matches('request: "file" must be a string, got 1', misuse { file = 1 })
    end)
  end)

  describe("of several parts", function()
    it("is values and files", function()
      local plan = plan_of {
        multipart = {
          { name = "a", value = "x\0y" }, { name = "n", value = 12 },
          { name = "f", file = "data/x.csv" },
          { name = "g", file = "y", filename = "z.txt", type = "text/plain" },
          { name = "h", value = "1,2", filename = "h.csv", type = "text/csv" },
          { name = "i", value = "", filename = "i" },
        },
      }
      local binary = "application/octet-stream"
      assert.same({
        { name = "a", value = "x\0y" }, { name = "n", value = "12" },
        { name = "f", file = "data/x.csv", type = binary },
        { name = "g", file = "y", filename = "z.txt", type = "text/plain" },
        { name = "h", value = "1,2", filename = "h.csv", type = "text/csv" },
        { name = "i", value = "", filename = "i", type = binary },
      }, plan.parts)
      assert.equal("POST", plan.method)
    end)

    it("may hold secrets, which are revealed and stay at home", function()
      local plan = plan_of { multipart = { { name = "k", value = secret.value "body-spec-key" } } }
      assert.equal("body-spec-key", plan.parts[1].value)
      assert.is_true(plan.body_secret)
      local _, err = redirect.next(plan, 307, "https://b/")
      assert.matches("secret in the body", err.message)
      assert.is_false(plan_of({ multipart = { { name = "k", value = "x" } } }).body_secret)
    end)

    it("has the type that tells their boundary, which nobody else sets", function()
      local plan = plan_of({ multipart = { { name = "a", value = "" } } },
        { headers = { ["Content-Type"] = "text/odd" } })
      assert.is_nil(content_type(plan))
      plan = plan_of { multipart = { { name = "a", value = "" } }, headers = { ["X-A"] = "1" } }
      assert.matches("X%-A: 1\n", plan.headers)
      assert.matches('body_spec.lua:%d+: request: "multipart" sets the Content%-Type', misuse {
        multipart = { { name = "a", value = "" } },
        headers = { ["content-type"] = "multipart/form-data" },
      })
    end)

    for _, case in ipairs {
      { 'request.multipart: must have at least one part', {} },
      { 'request.multipart: must be a list of parts', { name = "a", value = "b" } },
      { 'request.multipart%[1%]: must be a table of options, got "a"', { "a" } },
      { 'request.multipart%[2%]: "name" is missing',
        { { name = "a", value = "" }, nil, { name = "a", value = "" } } },
      { 'request.multipart%[1%]: "name" is missing', { { value = "x" } } },
      { 'request.multipart%[1%]: must have either a "value" or a "file"', { { name = "x" } } },
      { 'request.multipart%[1%]: must have either', { { name = "x", value = "", file = "x" } } },
      { 'request.multipart%[1%]: unknown option "vale" %(did you mean "value"%?%)',
        { { name = "x", vale = "" } } },
      { 'request.multipart%[1%]: "value" must be a string or a secret or a number',
        { { name = "x", value = {} } } },
      { 'request.multipart%[1%]: "name" contains a line break',
        { { name = "a\r\n", value = "" } } },
      { 'request.multipart%[1%]: "filename" contains a line break',
        { { name = "a", file = "x", filename = "a\nb" } } },
      { 'request.multipart%[1%]: "type" contains',
        { { name = "a", file = "x", type = "a\r\nB: c" } } },
      { 'request.multipart%[1%]: "file" must be the path', { { name = "a", file = "" } } },
    } do
      it("is refused: " .. case[1], function()
        assert.matches(case[1], misuse { multipart = case[2] })
      end)
    end
  end)

  describe("from a function", function()
    -- A plan whose body's function returns these in turn, then nothing.
    local function giving(...)
      local values, at = { ... }, 0
      return plan_of {
        body = function()
          at = at + 1
          return values[at]
        end,
      }
    end

    it("is asked for texts until it returns nil; empty ones do not end it", function()
      local plan = giving("a", "", secret.value "body-spec-secret", "b")
      assert.equal("POST", plan.method)
      assert.is_nil(content_type(plan))
      assert.is_false(body.is_spent(plan))
      assert.equal("a", plan.pull())
      assert.is_true(body.is_spent(plan))
      assert.equal("body-spec-secret", plan.pull())
      assert.equal("b", plan.pull())
      assert.is_nil(plan.pull())
    end)

    it("fails with its err", function()
      local err = errors.new("http", "gone")
      local plan = plan_of { body = function() return nil, err end }
      assert.same({ nil, err }, { plan.pull() })
      plan = plan_of { body = function() return nil, "no more" end }
      local _, problem = plan.pull()
      assert.equal("script: no more", tostring(problem))
    end)

    it("gives nothing else than texts", function()
      local ok, message = pcall(giving({}).pull)
      assert.is_false(ok)
      assert.matches("request.body: the function must return texts, and nil at the end; "
        .. "it returned a table", message)
    end)

    it("may have a length, which it must then have", function()
      local function sized(size, ...)
        local values, at = { ... }, 0
        return plan_of {
          headers = { ["content-length"] = size, ["X-A"] = "1" },
          body = function()
            at = at + 1
            return values[at]
          end,
        }
      end
      local plan = sized("3", "ab", "c")
      assert.equal(3, plan.body_size)
      assert.not_matches("[Cc]ontent", plan.headers)
      assert.matches("X%-A: 1", plan.headers)
      assert.same({ "ab", "c" }, { plan.pull(), plan.pull() })
      assert.same({}, { plan.pull() })
      for _, case in ipairs { { 4, "less" }, { 2, "more" } } do
        plan = sized(case[1], "ab", "c")
        assert.equal("ab", plan.pull())
        local text, err
        repeat text, err = plan.pull() until not text
        assert.equal("invalid: the body's function gave " .. case[2] .. " bytes than the "
          .. case[1] .. " of its Content-Length", tostring(err))
      end
      for _, bad in ipairs { "", "-1", "0x1", "1.5", " 1", ("9"):rep(23) } do
        assert.matches("the Content%-Length must be a number of bytes", misuse {
          headers = { ["Content-Length"] = bad }, body = print,
        })
      end
      assert.matches('"file" and "multipart" set the Content%-Length', misuse {
        headers = { ["Content-Length"] = 1 }, file = "x",
      })
    end)

    it("is repeated by no redirect, once it began", function()
      local plan = giving("a")
      assert.is_true(redirect.next(plan, 307, "/x").keeps_body)
      plan.pull()
      for _, status in ipairs { 307, 308 } do
        local _, err = redirect.next(plan, status, "/x")
        assert.equal("body_not_repeatable", err.fault)
        assert.matches("redirect refused: 30%d asks for the body again", err.message)
      end
      for _, status in ipairs { 301, 302, 303 } do
        local following = redirect.next(plan, status, "/x")
        assert.same({ "GET", false }, { following.method, following.keeps_body })
        local after = request.follow(plan, following, 0)
        assert.is_false(body.of(after))
        assert.is_nil(after.pulled)
      end
    end)
  end)

  it("goes along with a redirect, or does not, whatever it is made of", function()
    for _, given in ipairs {
      { body = "x" }, { file = "x" }, { multipart = { { name = "a", value = "b" } } },
    } do
      local plan = plan_of(given)
      local after = request.follow(plan, redirect.next(plan, 308, "https://b/"), 0)
      assert.same({ plan.body, plan.body_file, plan.parts },
        { after.body, after.body_file, after.parts })
      assert.equal("POST", after.method)
      after = request.follow(plan, redirect.next(plan, 303, "https://b/"), 0)
      assert.is_false(body.of(after))
      assert.is_nil(content_type(after))
    end
  end)

  it("that is never held in memory may take its time", function()
    for _, given in ipairs {
      { file = "x" }, { multipart = { { name = "a", value = "" } } }, { body = print },
    } do
      local plan = plan_of(given)
      assert.same({ 0, 30, 64e6 }, { plan.timeout, plan.idle_timeout, plan.max_body })
      given.timeout = { attempt = 5, idle = 2 }
      plan = plan_of(given)
      assert.same({ 5, 2 }, { plan.timeout, plan.idle_timeout })
    end
    assert.equal(30, plan_of({ body = "x" }).timeout)
    -- Nor may a streamed response.
    local plan = plan_of { stream = true }
    assert.same({ 0, 30, 0 }, { plan.timeout, plan.idle_timeout, plan.max_body })
    assert.matches("save and stream exclude each other", misuse { stream = true, save = "x" })
  end)
end)
