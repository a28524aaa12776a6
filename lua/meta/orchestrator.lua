---@meta orchestrator
-- Types for editors (LuaCATS). Nothing here runs; ../README.md explains it all with examples.

---Seconds, or "500ms", "10s", "5m", "1h", "2d".
---@alias orc.Duration number|string

---Bytes, or "64kB", "10MB", "1GB" (powers of 1000), "1KiB", "1MiB" (of 1024).
---@alias orc.Size integer|string

---A text, or a secret that stands for one.
---@alias orc.Text string|orc.Secret

---What a query or form may hold; a list repeats its name.
---@alias orc.Scalar string|number|boolean|orc.Secret

---@alias orc.ErrorKind
---| "http" # the final status is not accepted; `response` is the response
---| "dns" # no address; `temporary` when the name server gave no answer
---| "connect" # nobody listens there, the network says no, or the proxy refuses
---| "tls" # certificate or handshake
---| "timeout" # a timeout or deadline passed
---| "network" # the connection broke
---| "protocol" # what came is no well-formed HTTP
---| "too_large" # more than max_body, max_headers or max_line
---| "too_many_redirects" # more than `follow`
---| "decode" # not JSON or CSV, or not what the content coding promised
---| "cancelled" # the task was cancelled, or the run interrupted
---| "rate_limited" # the server asks to wait longer than max_retry_after or the deadline
---| "circuit_open" # too many attempts at the host failed, see CircuitBreakerOptions
---| "blocked" # a redirect that must not be followed
---| "invalid" # it could not be sent, read or written at all
---| "script" # the script raised, or a task returned nil and a text
---| "validation" # a function of a pipeline refused the item, every item of a run failed, or every record was bad

---`tostring(err)` is one readable line, with secrets masked.
---@class orc.Error
---@field kind orc.ErrorKind
---@field message string
---@field fault? string which row of the manual's table of faults
---@field url? string
---@field method? string
---@field status? integer
---@field attempts? integer
---@field response? orc.Response the answer that was not accepted
---@field position? string where the item came from: "urls.txt:17"
---@field traceback? string of the task that raised
---@field temporary? boolean a failed lookup that may work later

---Opaque: it can be sent and joined to texts, and shows as `***`.
---@class orc.Secret
---@operator concat(string|orc.Secret): orc.Secret

-- Requests and responses ----------------------------------------------------------------------

---Durations. Waiting for a slot or for the rate limit does not count.
---@class orc.TimeoutOptions
---@field connect? orc.Duration looking up the name, and connecting (default "10s")
---@field dns? orc.Duration looking up the name (default: as long as `connect`)
---@field attempt? orc.Duration with its redirects (default "30s"; none for what is not in memory)
---@field idle? orc.Duration without a byte (default none; "30s" where `attempt` has none)
---@field total? orc.Duration all attempts and the waits between them (default none)

---@class orc.RetryOptions
---@field attempts? integer counts the first (default 5)
---@field wait_initial? orc.Duration the longest wait before the second attempt (default "500ms")
---@field wait_max? orc.Duration the longest of all waits (default "60s")
---@field factor? number by which the longest wait grows, at least 1 (default 2)
---@field jitter? "full"|false random up to the longest wait, or exactly that (default "full")
---@field statuses? integer[] (default 408 425 429 500 502 503 504 522 524)
---@field methods? string[] (default GET HEAD OPTIONS PUT DELETE)
---@field respect_retry_after? boolean wait as long as Retry-After says (default true)
---@field max_retry_after? orc.Duration asked for more, it fails: `rate_limited` (default "5m")
---@field budget? number client only: retries per request, and ten more a minute (default 0.2)
---@field deadline? orc.Duration no wait goes beyond it, from the first start (default none)
---@field on_retry? fun(info: orc.RetryInfo) called before every wait

---@class orc.RetryInfo
---@field url string
---@field method string
---@field attempt integer the one that failed
---@field wait number seconds until the next
---@field error orc.Error
---@field status? integer

---A second attempt when the first is slow; the first good answer wins.
---@class orc.HedgeOptions
---@field after orc.Duration|"p50"|"p90"|"p95"|"p99" from the start of the attempt
---@field max? integer hedges of one attempt (default 1)
---@field budget? number client only: hedges per request, at least one a minute (default 0.05)

---What a fallback gives instead of an answer: `json` or `body`.
---@class orc.FallbackAnswer
---@field status? integer (default 200)
---@field headers? table<string, string|number|orc.Secret>
---@field json? any
---@field body? string

---@alias orc.CacheMode "default"|"no-store"|"reload"|"no-cache"|"force-cache"|"only-if-cached"

---How responses are stored and used again (RFC 9111).
---@class orc.RequestCacheOptions
---@field ttl? orc.Duration everything is fresh for so long, but for no-store and `Vary: *`
---@field stale_if_error? orc.Duration how long what is stale may answer instead of an error
---@field stale_while_revalidate? orc.Duration how long it may answer while it is asked for
---@field mode? orc.CacheMode the fetch standard's (default "default")
---@field key? fun(request: { url: string, method: string, headers: table }): string instead of the URL
---@field vary? string[] request headers that every answer depends on

---@class orc.CacheOptions: orc.RequestCacheOptions
---@field max_size? orc.Size of what is stored, compressed (default "1GB", at least "1MB")
---@field memory? orc.Size of what is also kept in memory (default none)

---@alias orc.ResponseAction "accept"|"retry"|"fail"|"ignore"

---@alias orc.Fallback fun(err: orc.Error, request: orc.Request|orc.Text): orc.FallbackAnswer|orc.Response|nil, orc.Error|string|nil

---Settings of a client, or of one request.
---@class orc.CommonOptions
---@field headers? table<string, string|number|orc.Secret|false> `false` leaves one out
---@field timeout? orc.Duration|orc.TimeoutOptions a duration means `attempt`
---@field retry? orc.RetryOptions|false false: one attempt
---@field accept? integer[]|"any"|fun(res: orc.Response): boolean what is an answer (default 2xx)
---@field response_action? fun(res: orc.Response): orc.ResponseAction? nil: the status decides
---@field hedge? orc.HedgeOptions|false (default none)
---@field fallback? orc.Fallback|false asked when a request has failed for good
---@field max_body? orc.Size of the decoded body (default "64MB"; none with `save` and `stream`)
---@field max_headers? orc.Size of the response's header fields (default and most 300000)
---@field follow? integer redirects at most (default 10)
---@field cache? boolean|orc.RequestCacheOptions true: by RFC 9111 (default false)

---@class orc.Request: orc.CommonOptions
---@field url? orc.Text absolute, or below the client's base_url
---@field method? string (default GET; POST with a body)
---@field query? table<string, orc.Scalar|orc.Scalar[]>
---@field json? any the body, encoded
---@field form? table<string, orc.Scalar|orc.Scalar[]> the body, as an HTML form sends it
---@field body? orc.Text|fun(): string?, any the body as it is, or piece by piece until nil
---@field file? string the file that is the body
---@field multipart? orc.Part[] a form with files in it
---@field min_speed? number|string bytes a second, over timeout.idle (default 100 with save)
---@field stream? true the body is read by the response's iterators, while it comes
---@field weight? number what it costs of every rate limit (default 1)
---@field priority? number who waits with a higher one goes first (default 0)
---@field save? string the file a 2xx body goes to

---One of `value` and `file`.
---@class orc.Part
---@field name string
---@field value? orc.Text|number
---@field file? string the path of a file
---@field filename? string (default that of the path; none with `value`)
---@field type? string its Content-Type (default application/octet-stream for files)

---@class orc.LineOptions
---@field max_line? orc.Size the most that a line may have (default "1MB")

---@class orc.CsvOptions: orc.LineOptions
---@field header? boolean false: records are lists, and the first is one of them (default true)
---@field separator? string one character (default ",")

---@class orc.Hop
---@field url string
---@field status integer

---Seconds. Of the last hop; `total` is the attempt's.
---@class orc.Timing
---@field dns number
---@field connect number
---@field tls number
---@field first_byte number
---@field total number

---@class orc.Response
---@field status integer
---@field ok boolean 2xx
---@field url string of the last hop
---@field headers table<string, string> by lower-case name
---@field body? string decoded; nil when it was saved or is streamed
---@field attempts integer without hedges; 0 when the cache answered without asking the server
---@field hops orc.Hop[] the redirects on the way
---@field from_cache? "fresh"|"revalidated"|"stale" how the cache had it; nil: it did not
---@field age? number seconds since its server made it, when the cache had it
---@field instead_of? orc.Error that stale_if_error kept from you
---@field ignored? true a response action said "ignore"
---@field hedged? true a hedge was faster
---@field fallback? true the script's fallback gave it
---@field framing "length"|"chunked"|"h2"|"none"|"close" "close": perhaps it is not complete
---@field version "1.0"|"1.1"|"2"
---@field size? integer bytes of the decoded body; nil while it is streamed
---@field wire? integer bytes of the body as received; nil while it is streamed
---@field timing orc.Timing
local Response = {}

---The body as a value.
---@return any value
---@return orc.Error? err kind `decode`
function Response:json() end

---The lines of the body, with their numbers. The iterator raises an orc.Error when the body breaks
---off or a line is too long, as a `for` loop would take nil for the end.
---@param options? orc.LineOptions
---@return fun(): string?, integer?
function Response:lines(options) end

---The values of a JSON Lines body, with their line numbers. Raises as `lines` does.
---@param options? orc.LineOptions
---@return fun(): any, integer?
function Response:jsonl(options) end

---The records of a CSV body (RFC 4180), with their line numbers. Raises as `lines` does.
---@param options? orc.CsvOptions
---@return fun(): table?, integer?
function Response:csv(options) end

---The body in pieces, as they come. Raises as `lines` does.
---@return fun(): string?
function Response:chunks() end

---The beginning of the body, wherever it goes; what is streamed is still to be read.
---@param most? integer bytes (default 1000)
---@return string? text
---@return orc.Error? err
function Response:peek(most) end

---Gives up what is left of a streamed body, and with it the slot and the connection.
function Response:close() end

-- Clients -------------------------------------------------------------------------------------

---@class orc.ConcurrencyOptions
---@field total? integer|"auto" attempts in flight (default 50); "auto": as many as each host takes
---@field per_host? integer for each scheme, host and port (default unlimited)
---@field pool? string clients that name the same pool share its slots

--- When too many attempts at a host fail it is left alone for a while.
---@class orc.CircuitBreakerOptions
---@field failures? number share of attempts, from 0 to 1, that opens the circuit (default 0.5)
---@field min_requests? integer … of so many attempts at least (default 20)
---@field window? orc.Duration … that ended in this time (default "30s")
---@field cooldown? orc.Duration so long none starts (default "30s")
---@field probes? integer then so many may, and close the circuit if they succeed (default 3)
---@field on_open? "wait"|"fail" "fail": requests fail as "circuit_open" (default "wait")

---`"100/1m"`, `"10/s"`, or this.
---@class orc.RateOptions
---@field limit number starts …
---@field per orc.Duration … in this time
---@field burst? integer how many may come at once (default 1)
---@field window? "sliding" never more than `limit` in any stretch of `per`
---@field name? string clients that give the same name share the limit, other runs too

---@class orc.BearerAuth
---@field type "bearer"
---@field token orc.Text

---@class orc.BasicAuth
---@field type "basic"
---@field username orc.Text without a colon
---@field password orc.Text

---@class orc.ApiKeyAuth
---@field type "api_key"
---@field name string of the header or parameter
---@field value orc.Text
---@field place? "header"|"query" (default "header")

---@class orc.DigestAuth
---@field type "digest"
---@field username orc.Text without a colon
---@field password orc.Text

---@class orc.Oauth2Auth
---@field type "oauth2"
---@field token_url orc.Text
---@field client_id orc.Text
---@field client_secret? orc.Text needed for client_credentials
---@field grant? "client_credentials"|"refresh_token" (default client_credentials)
---@field refresh_token? orc.Text for the grant of that name
---@field scope? string|string[]
---@field audience? string
---@field params? table<string, orc.Text> further fields of the token request
---@field client_auth? "basic"|"post" where the client's credentials go (default basic)

---@class orc.SigV4Auth
---@field type "sigv4"
---@field region string
---@field service string "s3", "execute-api" …
---@field access_key_id orc.Text
---@field secret_access_key orc.Text
---@field session_token? orc.Text

---@class orc.NetrcAuth
---@field type "netrc"
---@field file? string (default the one NETRC names, or ~/.netrc)

---@alias orc.Auth
---| orc.BearerAuth
---| orc.BasicAuth
---| orc.ApiKeyAuth
---| orc.DigestAuth
---| orc.Oauth2Auth
---| orc.SigV4Auth
---| orc.NetrcAuth

---Files are PEM.
---@class orc.TlsOptions
---@field ca? string file of the authorities to trust (default the system's)
---@field crl? string file of revocation lists, one of each authority in the chain
---@field cert? string file of our certificate, for servers that ask for one
---@field key? string file of its key (default that of `cert`)
---@field key_password? orc.Text
---@field min? "1.0"|"1.1"|"1.2"|"1.3" the oldest version (default "1.2")
---@field insecure? boolean true: certificates are not verified, and that is warned of

---@class orc.ProxyOptions
---@field url orc.Text "http://host:3128", "https://…" or "socks5://…", perhaps with credentials
---@field username? orc.Text
---@field password? orc.Text
---@field no_proxy? string hosts reached directly: "localhost, .example.com, 10.0.0.0/8"

---@class orc.ClientOptions: orc.CommonOptions
---@field cache? boolean|orc.CacheOptions true: by RFC 9111 (default false)
---@field base_url? string put before relative URLs; `auth` and headers stay at its scheme and host
---@field auth? orc.Auth|orc.Auth[] of several the one with the most left is taken
---@field concurrency? integer|"auto"|orc.ConcurrencyOptions a number or "auto" means `total`
---@field rate_limit? string|orc.RateOptions|(string|orc.RateOptions)[] one, or several at once (default none)
---@field server_limits? boolean heed what servers say of their own limits (default true)
---@field circuit_breaker? boolean|orc.CircuitBreakerOptions (default false)
---@field tls? orc.TlsOptions
---@field deny_private? boolean connect to public addresses only (default false)
---@field allow_hosts? string[] the only hosts in URLs: "a.test", "*.b.test", "10.0.0.7"
---@field proxy? orc.Text|orc.ProxyOptions|false false: none (default: as the environment says)
---@field resolve? table<string, string|string[]> host or "host:port" → addresses
---@field unix_socket? string the socket that everything is sent to
---@field cookies? boolean keep cookies, in a jar of the client's own (default false)

---Settings that requests share, and at run time slots, rate limit and retry budget.
---@class orc.Client
local Client = {}

---Fetches, and waits for the answer; other tasks run meanwhile. Raises for misuse only.
---@param request orc.Text|orc.Request
---@return orc.Response? res
---@return orc.Error? err
function Client:fetch(request) end

-- Tasks ---------------------------------------------------------------------------------------

---@class orc.Task
local Task = {}

---Waits for the task to end.
---@return any ... what it returned, or nil and an orc.Error
function Task:await() end

---Aborts what it waits for; that raises in the task, as does everything it waits for later.
---@param reason? string
function Task:cancel(reason) end

---@class orc.Group
local Group = {}

---Starts a task that ends before its group does.
---@param fn fun(...: any): any
---@param ... any given to fn
---@return orc.Task
function Group:spawn(fn, ...) end

---@class orc.Semaphore
local Semaphore = {}

---Waits for a permit.
function Semaphore:acquire() end

---Gives a permit back. Raises when none was taken.
function Semaphore:release() end

---Runs `fn` with a permit, which is given back however it ends.
---@param fn fun(): any
---@return any ... what fn returned; what it raises is raised
function Semaphore:with(fn) end

---@class orc.Channel
local Channel = {}

---Hands a value over; waits while the channel is full. Raises for nil, and when it is closed.
---@param value any
function Channel:send(value) end

---Takes the next value; waits while there is none.
---@return any value nil when the channel is closed and empty
function Channel:recv() end

---`for value in channel:iter() do`, until it is closed and empty.
---@return fun(): any
function Channel:iter() end

---No more values will be sent; those sent already are still received.
function Channel:close() end

---@class orc.MapOptions
---@field concurrency? integer so many at a time (map: default 20)
---@field on_error? "collect"|"fail" fail: the first failure cancels the rest (default "collect")

---@class orc.GroupOptions
---@field deadline? orc.Duration after which all its tasks are cancelled

---A table by index, with holes; `n` says how many.
---@class orc.Results: { [integer]: any, n: integer }

-- Pipelines -----------------------------------------------------------------------------------

---Made by orc.source.
---@class orc.Source

---@class orc.Pipeline

---`nil, err` fails the item; what it raises fails the run.
---@alias orc.RecordFunction fun(record: any, res: orc.Response, item: any): any, any

---@alias orc.OnError "dead_letter"|"skip"|"fail"

---@alias orc.ColumnType
---| "integer" # whole, of 64 bits
---| "number"
---| "string"
---| "boolean"
---| "timestamp" # a text such as 2026-11-22T05:30:15Z
---| "date" # a text such as 2026-11-22
---| "json" # any value

---@class orc.ColumnOptions
---@field type? orc.ColumnType (default: any)
---@field required? boolean it must be there (default false)
---@field nullable? boolean it may be null (default: unless required)
---@field enum? (string|number|boolean)[] the values there are
---@field min? number
---@field max? number
---@field pattern? string a Lua pattern that must be found
---@field max_length? integer characters

---@class orc.SchemaOptions
---@field columns? table<string, orc.ColumnType|orc.ColumnOptions>
---@field contract? "evolve"|"freeze"|"discard_row"|"discard_value" (default "evolve")

---A sink that is a file: { "out/x.csv", mode = "append", csv = { delimiter = ";" } }
---@class orc.FileSinkOptions
---@field target? string the path, if it is not the first element
---@field mode? "replace"|"append" (default the pipeline's)
---@field csv? orc.CsvSinkOptions

---@class orc.CsvSinkOptions
---@field columns? string[] all there are, in their order (default: those of the records)
---@field delimiter? string one ASCII character (default ",")
---@field formula_escape? boolean a quote before texts that a spreadsheet would run (default false)

---A table in a database: { "out/x.sqlite", table = "items", mode = "merge", primary_key = "id" }
---@class orc.TableSinkOptions
---@field target? orc.Text the path or the URL, if it is not the first element
---@field table? string its name (default the pipeline's)
---@field mode? "replace"|"append"|"merge" (default the pipeline's)
---@field primary_key? string|string[] the columns that tell rows apart, for merge and replace

---The sink https://…: { "https://a.example/records", batch = 100 }
---@class orc.HttpSinkOptions
---@field target? orc.Text the URL, if it is not the first element
---@field format? "jsonl"|"json" (default "jsonl")
---@field batch? integer the most records in a request (default 500)
---@field headers? table<string, orc.Text>
---@field client? orc.ClientOptions|orc.Client

---A path (.jsonl .csv .json, also with .gz or .zst), a database, a URL; or {target, options}
---@alias orc.Sink orc.Text|orc.FileSinkOptions|orc.TableSinkOptions|orc.HttpSinkOptions

---@class orc.PipelineOptions
---@field name? string names the dead letters too (default the script's)
---@field client? orc.ClientOptions|orc.Client
---@field source any[]|fun(): any|orc.Source a list, an iterator function, or one of orc.source
---@field request? fun(item: any): (orc.Text|orc.Request)?, orc.Error|string|nil (default: the item)
---@field data_selector? string where the records are: "data.items", "pages[*].rows"
---@field filter? orc.RecordFunction true keeps the record
---@field map? orc.RecordFunction makes a record, a list of them, or nil for none
---@field sink? orc.Sink|orc.Sink[] "-" is stdout (default "-")
---@field mode? "replace"|"append"|"merge" (default "replace")
---@field ordered? boolean the output has the order of the source (default false)
---@field on_error? orc.OnError|fun(err: orc.Error, item: any): orc.OnError (default "dead_letter")
---@field schema? orc.SchemaOptions what records must be
---@field validate? fun(record: any): any, any true, or false and a reason
---@field dead_letters? string|table|orc.Secret a file or a table, as in sink (default "NAME.dead.jsonl")
---@field thresholds? table<orc.Metric, string|string[]> such as { http_req_failed = "rate<0.05" }
---@field key? fun(item: any): string|number tells items apart (default: method, URL and body)
---@field resume? boolean goes on with an unfinished run, as --resume does (default false)
---@field journal? boolean what is done is remembered (default true)
---@field provenance? boolean each record tells where it came from, in `_meta` (default false)

---@alias orc.Metric
---| "http_reqs" # requests that ended: count, rate (per second)
---| "http_req_failed" # those that failed for good: count, rate (0 to 1)
---| "http_req_duration" # attempts in milliseconds: avg min med max p(95)
---| "iterations" # items that are through: count, rate
---| "records" # records written: count, rate
---| "records_filtered" # records filtered out: count, rate
---| "records_invalid" # bad records: count, rate
---| "dead_letters" # items kept as dead letters: count, rate
---| "stale_if_error" # answered with something stale instead of an error: count, rate (0 to 1)

-- The module ----------------------------------------------------------------------------------

---@class orchestrator
---@field null lightuserdata JSON's null
---@field params table<string, string> key=value from the command line
local orc = {}

---Fetches with a client of default settings. Waits; other tasks run meanwhile.
---@param request orc.Text|orc.Request
---@return orc.Response? res
---@return orc.Error? err
function orc.fetch(request) end

---@param options? orc.ClientOptions
---@return orc.Client
function orc.client(options) end

---To be returned by the script, alone or in a list. Raises for misuse.
---@param options orc.PipelineOptions
---@return orc.Pipeline
function orc.pipeline(options) end

---Runs `fn` and remembers what it returns. With --resume, after a program that did not end well, it
---gives that instead. Waits. Raises when it cannot be written down.
---@param key string tells the steps of a program apart; at most 500 bytes
---@param fn fun(): any, any what JSON can hold; `nil, err` is not remembered
---@return any value
---@return any err
function orc.step(key, fn) end

---Calls `fn(item, index)` for every item, so many at a time.
---@generic T
---@param items T[]|fun(): T? a list, or an iterator function, which may wait
---@param fn fun(item: T, index: integer): any, any
---@param options? orc.MapOptions
---@return orc.Results? results nil only with on_error = "fail"
---@return orc.Results|orc.Error errors by index
function orc.map(items, fn, options) end

---Runs functions at once.
---@param fns (fun(): any, any)[]
---@param options? orc.MapOptions
---@return orc.Results? results nil only with on_error = "fail"
---@return orc.Results|orc.Error errors by index
function orc.gather(fns, options) end

---Runs `fn(group)`. Every task it spawns has ended when this returns; the first that fails cancels
---the others and fails the group.
---@param fn fun(group: orc.Group): any
---@param options? orc.GroupOptions
---@return any ... what fn returned, or nil and an orc.Error
function orc.group(fn, options) end

---Runs `fn`, and cancels it when `duration` has passed.
---@param duration orc.Duration elapsed time, whatever the wall clock does
---@param fn fun(): any
---@return any ... what fn returned, or nil and an orc.Error (kind `timeout`)
function orc.deadline(duration, fn) end

---@param duration orc.Duration
function orc.sleep(duration) end

---@return number seconds on a clock that only goes forward
function orc.now() end

---@param n integer how many may hold it at once
---@return orc.Semaphore
function orc.semaphore(n) end

---@param n? integer how many values it holds before a send waits (default 0: until received)
---@return orc.Channel
function orc.channel(n) end

orc.json = {
  null = orc.null,
}

---@param text string
---@return any value
---@return orc.Error? err kind `decode`
function orc.json.decode(text) end

---@param value any
---@return string? text
---@return orc.Error? err kind `invalid`, names where in the value
function orc.json.encode(value) end

---Marks a table as a list, so that it is written `[]` when it is empty.
---@param t? table a new one if not given
---@return table t
function orc.json.array(t) end

orc.secret = {}

---The value of an environment variable. Raises when it is unset or empty.
---@param name string
---@return orc.Secret
function orc.secret.env(name) end

---@param text orc.Text
---@return orc.Secret
function orc.secret.value(text) end

orc.source = {}

---The lines of a file, without empty ones. Raises when it cannot be read.
---@param path string
---@param options? orc.LineOptions
---@return orc.Source
function orc.source.lines(path, options) end

---The values of a JSON Lines file. Raises when it cannot be read.
---@param path string
---@param options? orc.LineOptions
---@return orc.Source
function orc.source.jsonl(path, options) end

---The rows of a CSV file (RFC 4180) as tables of texts, named by the first row. Raises when it
---cannot be read.
---@param path string
---@param options? orc.CsvOptions
---@return orc.Source
function orc.source.csv(path, options) end

return orc
