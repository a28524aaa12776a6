local date = require "orchestrator.date"

describe("date", function()
  local NOW = 1700000000 -- 2023-11-14T22:13:20Z

  it("reads the three forms of an HTTP date", function()
    for _, text in ipairs {
      "Tue, 14 Nov 2023 22:13:20 GMT", "Tuesday, 14-Nov-23 22:13:20 GMT",
      "Tue Nov 14 22:13:20 2023",
    } do
      assert.equal(NOW, date.http(text, NOW))
    end
    assert.equal(NOW - 86400 * 9, date.http("Sun Nov  5 22:13:20 2023", NOW))
    assert.equal(951782400, date.http("Tue, 29 Feb 2000 00:00:00 GMT", NOW))
  end)

  it("reads dates of RFC 3339", function()
    for text, seconds in pairs {
      ["2023-11-14T22:13:20Z"] = 0, ["2023-11-14t22:13:20z"] = 0, ["2023-11-14 22:13:20Z"] = 0,
      ["2023-11-14T22:13:20.25Z"] = 0.25, ["2023-11-14T23:13:20+01:00"] = 0,
      ["2023-11-14T17:43:20-04:30"] = 0, ["2023-11-14T22:13:21Z"] = 1,
    } do
      assert.equal(NOW + seconds, date.rfc3339(text), text)
    end
  end)

  it("takes nothing else", function()
    for _, text in ipairs {
      "", "soon", "Tue, 14 Nov 2023 22:13:20", "Tue, 14 Nov 2023 22:13:20 CET",
      "Tue, 31 Nov 2023 22:13:20 GMT", "Tue, 00 Nov 2023 22:13:20 GMT",
      "Tue, 14 Nov 2023 24:13:20 GMT", "Tue, 14 Nov 2023 22:60:20 GMT",
      "Tue, 29 Feb 2023 00:00:00 GMT", "Xxx, 14 Nov 2023 22:13:20 GMT",
      "Tue, 14 Xxx 2023 22:13:20 GMT",
    } do
      assert.is_nil(date.http(text, NOW), text)
    end
    for _, text in ipairs {
      "", "2023-11-14", "2023-11-14T22:13Z", "2023-11-14T22:13:20", "2023-13-14T22:13:20Z",
      "2023-00-14T22:13:20Z", "2023-11-31T22:13:20Z", "2023-11-14T24:13:20Z",
      "2023-11-14T22:13:20+25:00", "2023-11-14T22:13:20+01:60", "2023-11-14T22:13:20+1:00",
      "2023-11-14T22:13:20Zulu",
    } do
      assert.is_nil(date.rfc3339(text), text)
    end
  end)
end)
