-- Script for wrk: sends images in turn, and compares each response with the offline prediction.
-- wrk -s load.lua URL -- FOLDER COUNT; the folder holds files 0, 1, ... and `expected`.
-- Each request has the number of its image as X-Request-Id, which the server returns.

local threads = {}
local requests, expected = {}, {}
local turn = 0
compared, wrong, failed, said = 0, 0, 0, ""

function setup(thread)
  table.insert(threads, thread)
end

local function content(path)
  local file = assert(io.open(path, "rb"))
  local bytes = file:read("*a")
  file:close()
  return bytes
end

function init(args)
  local folder, count = args[1], tonumber(args[2])
  for line in content(folder .. "/expected"):gmatch("[^\n]+") do
    local index, probability = line:match("(%d+) (%S+)")
    table.insert(expected, { tonumber(index), tonumber(probability) })
  end
  for number = 1, count do
    local headers = {
      ["Content-Type"] = "application/octet-stream", ["X-Request-Id"] = tostring(number),
    }
    requests[number] = wrk.format("POST", nil, headers, content(folder .. "/" .. (number - 1)))
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status, headers, body)
  if status ~= 200 then
    failed = failed + 1
    said = status .. " " .. body
    return
  end
  compared = compared + 1
  local number = tonumber(headers["X-Request-Id"] or headers["x-request-id"])
  local index, probability = body:match('"index":(%d+),"probability":([%d.e-]+)')
  local right = expected[number]
  if not index or tonumber(index) ~= right[1]
    or math.abs(tonumber(probability) - right[2]) > 0.002 then
    wrong = wrong + 1
    said = body
  end
end

function done(summary, latency, all)
  local totals = { wrong = 0, failed = 0, compared = 0 }
  local words = ""
  for _, thread in ipairs(threads) do
    for key in pairs(totals) do
      totals[key] = totals[key] + thread:get(key)
    end
    words = thread:get("said")
  end
  local errors = summary.errors
  local broken = errors.connect + errors.read + errors.write + errors.timeout
  if words ~= "" then
    io.stderr:write(words .. "\n")
  end
  io.write(string.format(
    'RESULT {"compared": %d, "seconds": %f, "p50": %f, "p99": %f, "wrong": %d, "failed": %d}\n',
    totals.compared, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, totals.wrong, totals.failed + broken))
end
