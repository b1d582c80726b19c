// The bundle for a <script> element: one global, the class Realm, with everything else as its properties.

import * as sdk from './index.js';

const { Realm, ...others } = sdk;
Object.assign(globalThis, { Realm: Object.assign(Realm, others) });
