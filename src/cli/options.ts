// What the commands' options mean: sockets, durations, placements. Wrong ones are usage errors (exit code 2).

import { existsSync } from 'node:fs'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { parseEndpoint } from '../api/endpoint.js'
import { isName } from '../api/names.js'
import { SwitchClient } from '../api/switch-client.js'
import { asSnapswitchError } from '../errors/errors.js'

export const defaultSwitchSocket = '/run/snapswitch/switch.sock'
export const defaultCoordinatorSocket = '/run/snapswitch/coordinator.sock'

export interface CommonOptions {
  readonly json?: boolean
  readonly socket?: string
}

/** `-j` on every command that shows something. */
export function withJson(command: Command): Command {
  return command.option('-j, --json', 'print JSON instead of a table')
}

export function withSwitchSocket(command: Command): Command {
  return command.addOption(
    new Option('--socket <path>', 'the switch daemon’s socket')
      .env('SNAPSWITCH_SOCKET')
      .default(defaultSwitchSocket)
      .argParser(parseSocket),
  )
}

export function withCoordinatorSocket(command: Command): Command {
  return command.addOption(
    new Option(
      '--socket <path>',
      `the coordinator’s socket (default: ${defaultCoordinatorSocket}, or as the switch says)`,
    )
      .env('SNAPSWITCH_COORDINATOR')
      .argParser(parseSocket),
  )
}

/** An empty path, as from a variable that is not set, is no path. */
export function parseSocket(text: string): string {
  try {
    parseEndpoint(text)
    return text
  } catch (error) {
    const { message, action } = asSnapswitchError(error)
    throw new InvalidArgumentError(text === '' ? action : `${message}. ${action}`)
  }
}

const ASK_MS = 3_000

/** As it was given, else the usual one; where that is not there, the switch of this host knows. */
export async function coordinatorSocket(options: CommonOptions): Promise<string> {
  if (options.socket !== undefined) return options.socket
  const switchSocket = process.env.SNAPSWITCH_SOCKET || defaultSwitchSocket
  if (switchSocket === defaultSwitchSocket && existsSync(defaultCoordinatorSocket)) return defaultCoordinatorSocket
  const client = new SwitchClient(switchSocket)
  try {
    return (await client.status({ deadlineMs: ASK_MS })).coordinator?.socket ?? defaultCoordinatorSocket
  } catch {
    return defaultCoordinatorSocket
  } finally {
    await client.close()
  }
}

const units: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }

/** `90`, `90s`, `1500ms`, `2m`: milliseconds, from 1 ms to an hour. */
export function parseDuration(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text)
  const ms = match === null ? Number.NaN : Math.round(Number(match[1]) * (units[match[2] ?? 's'] as number))
  if (!(ms >= 1 && ms <= 3_600_000)) throw new InvalidArgumentError('Give a time from 1ms to 1h, such as 90s or 2m.')
  return ms
}

/** `vm=host`, repeatable. */
export function parsePlacement(text: string, before: Readonly<Record<string, string>> = {}): Record<string, string> {
  const [vm, host, ...more] = text.split('=')
  if (!isName(vm) || !isName(host) || more.length > 0) throw new InvalidArgumentError('Give it as machine=host.')
  if (before[vm] !== undefined && before[vm] !== host) {
    throw new InvalidArgumentError(`${vm} is placed on ${before[vm]} already.`)
  }
  return { ...before, [vm]: host }
}
