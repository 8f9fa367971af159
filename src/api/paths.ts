// Every URL path of both daemons, in one place. `routes` are patterns for the server, `paths` builds them for the
// client.

export const routes = {
  openapi: '/v1/openapi.json',
  status: '/v1/status',
  // the switch daemon
  metrics: '/metrics',
  reload: '/v1/reload',
  bridges: '/v1/bridges',
  bridge: '/v1/bridges/:bridge',
  ports: '/v1/ports',
  plays: '/v1/plays',
  fdb: '/v1/networks/:network/fdb',
  captures: '/v1/captures',
  capture: '/v1/captures/:id',
  networkCapture: '/v1/networks/:network/capture',
  verdicts: '/v1/networks/:network/verdicts',
  networkRecording: '/v1/networks/:network/recording',
  machineDisks: '/v1/machines/:vm/disks',
  pruneDisks: '/v1/disks/prune',
  flattenMachine: '/v1/machines/:vm/flatten',
  preflight: '/v1/networks/:network/preflight',
  prepare: '/v1/networks/:network/snapshots/:snapshot/prepare',
  take: '/v1/networks/:network/snapshots/:snapshot/take',
  discard: '/v1/networks/:network/snapshots/:snapshot/discard',
  localSnapshot: '/v1/networks/:network/snapshots/:snapshot',
  health: '/v1/networks/:network/health',
  verifyFiles: '/v1/networks/:network/snapshots/:snapshot/verify',
  rehearse: '/v1/networks/:network/snapshots/:snapshot/rehearse',
  flattenPart: '/v1/networks/:network/snapshots/:snapshot/flatten',
  adoptFlat: '/v1/networks/:network/snapshots/:snapshot/flatten/adopt',
  file: '/v1/networks/:network/snapshots/:snapshot/files/:digest',
  restoreCheck: '/v1/networks/:network/restores/:snapshot/check',
  restoreLoad: '/v1/networks/:network/restores/:snapshot/load',
  restorePause: '/v1/networks/:network/restores/:snapshot/pause',
  restoreSwitch: '/v1/networks/:network/restores/:snapshot/switch',
  restoreResume: '/v1/networks/:network/restores/:snapshot/resume',
  restoreAbort: '/v1/networks/:network/restores/:snapshot/abort',
  left: '/v1/networks/:network/left',
  // the coordinator
  snapshots: '/v1/snapshots',
  snapshot: '/v1/snapshots/:network/:name',
  restore: '/v1/snapshots/:network/:name/restore',
  audit: '/v1/snapshots/:network/:name/audit',
  frames: '/v1/snapshots/:network/:name/frames',
  prune: '/v1/prune',
  verify: '/v1/snapshots/:network/:name/verify',
  flatten: '/v1/snapshots/:network/:name/flatten',
  stepAside: '/v1/step-aside',
} as const

export type RouteName = keyof typeof routes

/** The names of the parameters that a pattern holds. */
export type RouteParams<P extends string> = P extends `${string}:${infer Name}/${infer Rest}`
  ? Name | RouteParams<Rest>
  : P extends `${string}:${infer Name}`
    ? Name
    : never

/** Fills a pattern's parameters in, percent-encoded: a name can never become a path. */
export function pathOf<R extends RouteName>(
  route: R,
  params: { readonly [K in RouteParams<(typeof routes)[R]>]: string },
): string {
  return routes[route].replace(/:([a-z]+)/g, (_, name: string) =>
    encodeURIComponent((params as Readonly<Record<string, string>>)[name] as string),
  )
}
