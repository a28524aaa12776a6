local fake_host = require "fake_host"
local secret = require "orchestrator.secret"
local tls = require "orchestrator.tls"

describe("the option tls", function()
  local file = os.tmpname()

  setup(function()
    local handle = assert(io.open(file, "w"))
    handle:write "Root\n-----BEGIN TRUSTED CERTIFICATE-----\nMII…\n"
    handle:write "-----BEGIN X509 CRL-----\n"
    handle:close()
  end)

  teardown(function() os.remove(file) end)

  local function refused(given, message)
    local ok, raised = pcall(tls.check, given, "client.tls")
    assert.is_false(ok)
    assert.matches(message, raised, 1, true)
  end

  it("becomes fields of a profile", function()
    assert.same({}, tls.check({}, "client.tls"))
    assert.same({ ca = file, crl = file, cert = file, key = file, key_password = "p4ssw0rd",
      tls_min = "1.3" }, tls.check({ ca = file, crl = file, cert = file, key = file,
        key_password = "p4ssw0rd", min = "1.3" }, "client.tls"))
    assert.same({ insecure = true }, tls.check({ insecure = true }, "client.tls"))
    assert.same({ ca = file }, tls.check({ insecure = false, ca = file }, "client.tls"))
  end)

  it("reads a password that is a secret, and hides one that is not", function()
    local given = { cert = file, key_password = secret.value "p4ssw0rd-1" }
    assert.equal("p4ssw0rd-1", tls.check(given, "client.tls").key_password)
    tls.check({ cert = file, key_password = "p4ssw0rd-2" }, "client.tls")
    assert.equal("is ***", secret.mask "is p4ssw0rd-2")
  end)

  it("names files that can be read", function()
    refused({ ca = "no/such.pem" },
      'client.tls: "ca" must be a file that can be read, got "no/such.pem": No such file')
    refused({ cert = "tests" }, 'got "tests": Is a directory')
    refused({ crl = "/dev/null" }, 'got "/dev/null": it is empty')
    refused({ ca = "CMakeLists.txt" },
      '"ca" must be a file of certificates in PEM, got "CMakeLists.txt"')
    refused({ crl = "CMakeLists.txt" },
      '"crl" must be a file of revocation lists in PEM, got "CMakeLists.txt"')
    refused({ cert = file, key_password = "a\0b" }, '"key_password" contains a NUL byte')
    refused({ cert = file, key_password = secret.value "a\0bcd" },
      '"key_password" contains a NUL byte')
    refused({ ca = "" }, '"ca" must be the path of a file')
    refused({ ca = "a\0b" }, '"ca" must be the path of a file')
  end)

  it("refuses what would do nothing", function()
    refused({ key = file }, '"key" needs a "cert"')
    refused({ key_password = "x" }, '"key_password" needs a "cert"')
    refused({ insecure = true, ca = file }, '"insecure" and "ca" exclude each other')
    refused({ insecure = true, crl = file }, '"insecure" and "crl" exclude each other')
    refused({ min = "1.4" }, '"min" must be "1.0", "1.1", "1.2" or "1.3", got "1.4"')
    refused({ min = 1.2 }, '"min" must be')
    refused({ insecur = true }, 'unknown option "insecur" (did you mean "insecure"?)')
  end)

  describe("of a client", function()
    local w, warned

    before_each(function()
      w, warned = fake_host.world(), {}
      w.env.voice = { log = { warn = function(_, message) warned[#warned + 1] = message end } }
    end)

    it("is warned of, once, when it is not safe", function()
      local api = w.client { tls = { insecure = true } }
      assert.equal(1, #warned)
      assert.matches(":%d+: client: tls.insecure: certificates are not verified",
        warned[1])
      assert.is_true(api.network.spec.insecure)
      w.client { tls = { min = "1.1" } }
      assert.equal(2, #warned)
      assert.matches('tls.min = "1.1"', warned[2], 1, true)
    end)

    it("is not warned of otherwise", function()
      for _, given in ipairs { {}, { tls = {} }, { tls = { insecure = false, min = "1.3" } } } do
        w.client(given)
      end
      assert.same({}, warned)
    end)
  end)
end)
