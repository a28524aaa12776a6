local crypto = require "orchestrator.core.crypto"

local function hash(name, text)
  return crypto.hex(crypto.hash(name, text))
end

local function hmac(name, key, text)
  return crypto.hex(crypto.hmac(name, key, text))
end

describe("crypto", function()
  it("hashes with MD5 (RFC 1321)", function()
    assert.equal("d41d8cd98f00b204e9800998ecf8427e", hash("md5", ""))
    assert.equal("900150983cd24fb0d6963f7d28e17f72", hash("md5", "abc"))
    assert.equal("57edf4a22be3c955ac49da2e2107b67a", hash("md5", ("1234567890"):rep(8)))
  end)

  it("hashes with SHA-256 (RFC 6234)", function()
    assert.equal("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      hash("sha256", ""))
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
      hash("sha256", "abc"))
    assert.equal("cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
      hash("sha256", ("a"):rep(1e6)))
  end)

  it("hashes with SHA-512/256 (FIPS 180-4)", function()
    assert.equal("53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23",
      hash("sha512-256", "abc"))
  end)

  it("hashes any bytes", function()
    assert.not_equal(hash("sha256", "a\0b"), hash("sha256", "a\0c"))
    assert.equal(32, #crypto.hash("sha256", "a\0b"))
  end)

  it("authenticates with a key (RFC 4231, RFC 2202)", function()
    assert.equal("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
      hmac("sha256", ("\11"):rep(20), "Hi There"))
    assert.equal("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
      hmac("sha256", "Jefe", "what do ya want for nothing?"))
    assert.equal("60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
      hmac("sha256", ("\170"):rep(131), "Test Using Larger Than Block-Size Key - Hash Key First"))
    assert.equal("750c783e6ab0b503eaa86e310a5db738", hmac("md5", "Jefe",
      "what do ya want for nothing?"))
    assert.equal(32, #crypto.hmac("sha256", "", ""))
  end)

  it("writes bytes as hexadecimal digits", function()
    assert.equal("", crypto.hex "")
    assert.equal("007f80ff0a", crypto.hex "\0\127\128\255\10")
    assert.equal(20000, #crypto.hex(("x"):rep(10000)))
  end)

  it("gives bytes nobody can foretell", function()
    assert.equal("", crypto.random(0))
    local seen = {}
    for _ = 1, 100 do
      local bytes = crypto.random(16)
      assert.equal(16, #bytes)
      assert.is_nil(seen[bytes])
      seen[bytes] = true
    end
  end)

  it("raises on misuse", function()
    assert.is_false(pcall(crypto.hash, "sha1", ""))
    assert.is_false(pcall(crypto.hash, "sha256"))
    assert.is_false(pcall(crypto.hmac, "sha256", "key"))
    assert.is_false(pcall(crypto.random, -1))
    assert.is_false(pcall(crypto.random, 1025))
    assert.is_false(pcall(crypto.hex))
  end)
end)
