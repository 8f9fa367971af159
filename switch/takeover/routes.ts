// The API of bridges: which are taken, and how one changes hands.

import { Type } from '@sinclair/typebox'
import { routes } from '../../src/api/paths.js'
import { BridgeInfo, BridgeName, GivenBack, TakeRequest } from '../../src/api/schemas.js'
import type { ApiInstance } from '../../src/api/server.js'
import type { Bridges } from './bridges.js'

export function addBridges(app: ApiInstance, bridges: Pick<Bridges, 'take' | 'give' | 'list'>): void {
  app.get(routes.bridges, { schema: { response: { 200: Type.Array(BridgeInfo) } } }, async () => bridges.list())

  app.post(routes.bridges, { schema: { body: TakeRequest, response: { 200: BridgeInfo } } }, (request) => {
    const { bridge, ...options } = request.body
    return bridges.take(bridge, options)
  })

  app.delete(
    routes.bridge,
    { schema: { params: Type.Object({ bridge: BridgeName }), response: { 200: GivenBack } } },
    (request) => bridges.give(request.params.bridge),
  )
}
