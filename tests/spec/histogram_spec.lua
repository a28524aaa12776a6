local histogram = require "orchestrator.histogram"

describe("histogram", function()
  it("has no answer when it is empty", function()
    local h = histogram.new()
    assert.equal(0, h.count)
    assert.is_nil(h:quantile(0.5))
    assert.is_nil(h:average())
    assert.is_nil(h.least)
    assert.is_nil(h.most)
  end)

  it("is exact for one value", function()
    local h = histogram.new()
    h:add(0.1234567)
    for _, fraction in ipairs { 0, 0.5, 0.99, 1 } do
      assert.equal(0.1234567, h:quantile(fraction))
    end
    assert.equal(0.1234567, h:average())
  end)

  it("is at most 1 % off, from microseconds to days", function()
    for _, scale in ipairs { 2e-6, 1e-3, 1, 100 } do
      local h, values = histogram.new(), {}
      local x = 1
      for i = 1, 5000 do
        x = x * 16807 % 2147483647
        values[i] = scale * (1 + x % 1000)
        h:add(values[i])
      end
      table.sort(values)
      for _, fraction in ipairs { 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1 } do
        local exact = values[math.ceil(fraction * #values)]
        local off = math.abs(h:quantile(fraction) - exact) / exact
        assert.is_true(off <= 0.01, ("%g of %g: %g off"):format(fraction, scale, off))
      end
      assert.equal(values[1], h.least)
      assert.equal(values[#values], h.most)
    end
  end)

  it("takes what is out of its range", function()
    local h = histogram.new()
    for _, value in ipairs { 0, -1, 1e-9, 1e9 } do h:add(value) end
    assert.equal(4, h.count)
    assert.equal(-1, h.least)
    assert.equal(1e9, h.most)
    assert.equal(1e9, h:quantile(1))
    assert.is_true(h:quantile(0.5) < 1e-5)
  end)
end)
